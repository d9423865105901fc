from __future__ import annotations

from benchmarks.gpu.session.context import Context
from lora_runtime.kernels.plan import PREFILL_TILE


def run(context: Context) -> None:
    context.emit("rows of a prefill tile", value=PREFILL_TILE)
