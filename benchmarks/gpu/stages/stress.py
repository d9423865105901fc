"""What is known to go wrong on Hopper with this compiler: tiles of 64 rows and more, many launches,
every bit."""

from __future__ import annotations

import torch

from benchmarks.gpu.cost import LLAMA_8B, TINY
from benchmarks.gpu.session.context import Context
from benchmarks.gpu.stress import FULL, attention_cases, lora_cases
from benchmarks.gpu.stress import TINY as TINY_SIZES
from lora_runtime.kernels import prefill_tiles, select


def run(context: Context) -> None:
    kernels = select(context.device, "triton")
    shape, sizes = (LLAMA_8B, FULL) if context.real else (TINY, TINY_SIZES)
    context.emit("tiles", kind=prefill_tiles.KIND)
    for dtype in (torch.bfloat16, torch.float16):
        for make in (lora_cases, attention_cases):
            for name, run_case in make(kernels, shape, sizes, dtype, context.device):
                name = f"{name} {str(dtype).removeprefix('torch.')}"
                if context.has(name):
                    continue
                try:
                    found = run_case()
                except Exception as error:  # an illegal read, which leaves no GPU to go on with
                    context.emit(name, error=f"{type(error).__name__}: {error}"[:500], good=False)
                    raise
                context.emit(name, **found)
