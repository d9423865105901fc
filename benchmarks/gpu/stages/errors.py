"""How far the kernels are from float64, beside how far torch's references in the same dtype are."""

from __future__ import annotations

import torch

from benchmarks.gpu.errors import compare
from benchmarks.gpu.session.context import Context
from lora_runtime.kernels import select


def run(context: Context) -> None:
    dtypes = [torch.bfloat16, torch.float32, *([torch.float16] if context.real else [])]
    for row in compare(select(context.device, "triton"), context.device, dtypes, wide=context.real):
        context.emit(f"{row.pop('name')} {row['dtype']}", **row)
