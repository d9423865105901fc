"""Compiles the planned LoRA kernels for A100 and H100 in the shapes of real models, and checks what they take.

`TRITON_INTERPRET=0 python -m tests.support.lora_launches` prints a line per kernel.
"""

from __future__ import annotations

import re
from functools import partial

import torch

from lora_runtime.kernels.plan import DECODE_TILE, PREFILL_TILE

from .cubins import resources
from .grouped import Step
from .triton_compile import compiled

LLAMA = ("q, k, v of Llama 3 8B", 4096, (4096, 1024, 1024), torch.bfloat16)
QWEN = ("gate, up of Qwen 2.5 0.5B", 896, (4864, 4864), torch.float16)
SMOL = ("down of SmolLM2 135M", 1536, (576,), torch.float32)
CASES = [
    (LLAMA, 80, DECODE_TILE), (LLAMA, 80, PREFILL_TILE), (LLAMA, 90, DECODE_TILE), (LLAMA, 90, PREFILL_TILE),
    (QWEN, 90, DECODE_TILE), (SMOL, 80, PREFILL_TILE), (SMOL, 90, DECODE_TILE)]
SHARED = 99 << 10
"""Bytes that a program may take: what any GPU of these and later kinds has."""
REGISTERS = 65536 // 2
"""Of a multiprocessor: a program takes at most half."""


def launch(inputs: int, outs: tuple[int, ...], dtype: torch.dtype, tile_size: int, bias: bool) -> None:
    from lora_runtime.kernels.triton.lora import update_group

    x, y = torch.empty(1, inputs, dtype=dtype), torch.empty(1, sum(outs), dtype=dtype)
    step = Step(x, y, outs, torch.empty(sum(outs), dtype=dtype) if bias else None, [{}], [(0, 1, 0, 1.0)])
    update_group(y, x, step.group, step.plan(tile_size), step.table)


def main() -> None:
    for (name, inputs, outs, dtype), capability, tile_size in CASES:
        kernels = compiled(capability, partial(launch, inputs, outs, dtype, tile_size, len(outs) == 3))
        assert len(kernels) == 2, kernels
        for kernel in kernels:
            registers, stack = resources(kernel.asm["cubin"])
            products = len(re.findall(r"\b(?:wgmma|mma)\.\S+", kernel.asm["ptx"]))
            wide = len(re.findall(r"cp\.async\.cg\.shared\.global|ld\.global\.v4", kernel.asm["ptx"]))
            print(f"{name:26} tiles of {tile_size:2} sm_{capability} {kernel.metadata.name:14}{registers:4} registers "
                  f"{stack:3} spilled {kernel.metadata.shared:6} shared {products:3} tensor core products "
                  f"{wide:3} wide loads", flush=True)
            assert kernel.metadata.shared <= SHARED
            assert registers * 32 * kernel.metadata.num_warps <= REGISTERS
            assert stack <= 64  # bytes
            assert (products > 0) == (dtype.itemsize == 2)
            assert wide > 0


if __name__ == "__main__":
    main()
