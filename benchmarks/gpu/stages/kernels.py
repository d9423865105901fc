"""Single kernels: the shares of the machine's own bandwidth and rate that they reach."""

from __future__ import annotations

import torch

from benchmarks.gpu.cost import LLAMA_8B, TINY
from benchmarks.gpu.kernels import FULL, cases, measure
from benchmarks.gpu.kernels import TINY as TINY_SIZES
from benchmarks.gpu.session.context import Context
from lora_runtime.kernels import select


def run(context: Context) -> None:
    shape, sizes = (LLAMA_8B, FULL) if context.real else (TINY, TINY_SIZES)
    wanted = cases(
        shape, sizes, select(context.device, "triton"), context.dtype, context.device, context.has
    )
    with torch.inference_mode():
        for row in measure(wanted, context.ceilings(), context.device, context.repeats):
            context.emit(str(row.pop("name")), **row)
