"""Compiles the attention kernels for A100, L4 and H100 in the shapes of real models, and checks what they take.

`TRITON_INTERPRET=0 python -m tests.support.attention_launches [--quick]` prints a line per kernel.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import torch

from lora_runtime.kernels.attention import AttentionPlan

from .cubins import resources
from .triton_compile import compiled

BF16 = torch.bfloat16
SHAPES: dict[str, tuple[tuple[int, int, int, int, torch.dtype], dict[str, Any]]] = {
    "Llama 3 8B": ((32, 8, 128, 128, BF16), {}),
    "odd dims": ((14, 2, 40, 33, torch.float16), {"window": 300, "softcap": 50.0}),
    "Gemma 2": ((8, 4, 256, 256, BF16), {"window": 4096, "softcap": 50.0}),
    "widest": ((32, 1, 512, 512, BF16), {"window": 4096}),
    "float32": ((9, 3, 64, 64, torch.float32), {}),
    "wide float32": ((8, 4, 256, 256, torch.float32), {}),
}
SHARED = {80: 163 << 10, 89: 99 << 10, 90: 227 << 10}
"""Bytes that one program may take. sm_86 has as much as sm_89."""
QUICK = {"Llama 3 8B": (80, 90), "Gemma 2": (89,), "widest": (89,)}
"""What the tests compile."""
SPILLED = 128
"""Bytes per thread, in the kernels that fill sm_80's registers."""


def launch(shape: tuple[int, int, int, int, torch.dtype], how: dict[str, Any], decode_rows: int = 1, width: int = 64
           ) -> None:
    """A mixed step of a chunk of 7 rows and decode rows, and its write.

    `width`: of the block table, and where its arrays begin.
    """
    from lora_runtime.kernels.triton.attention import paged_attention
    from lora_runtime.kernels.triton.cache import write_kv

    heads, kv_heads, dim, dim_v, dtype = shape
    k_cache, v_cache = (torch.zeros(2048, kv_heads, d, dtype=dtype) for d in (dim, dim_v))
    sequences, rows = 1 + decode_rows, 7 + decode_rows
    ints = [torch.zeros(width + n, dtype=torch.int32)[width:] for n in (rows, sequences + 1, sequences)]
    tables = torch.zeros(width + sequences * width, dtype=torch.int32)[width:].view(sequences, width)
    plan = AttentionPlan(*ints, tables, block_size=16)
    paged_attention(torch.zeros(rows, heads, dim, dtype=dtype), k_cache, v_cache, plan, scaling=0.1, **how)
    write_kv(k_cache[:rows].clone(), v_cache[:rows].clone(), k_cache, v_cache, plan.slots)


def main() -> None:
    cases = QUICK if "--quick" in sys.argv else dict.fromkeys(SHAPES, tuple(SHARED))
    for name, capabilities in cases.items():
        shape, how = SHAPES[name]
        for capability in capabilities:
            kernels = compiled(capability, lambda shape=shape, how=how: launch(shape, how))  # type: ignore[misc]
            assert len(kernels) == 4, kernels
            for rows, width in ((15, 65), (31, 96), (2, 40)):  # other steps run the same kernels
                again = compiled(capability, lambda s=shape, h=how, r=rows, w=width: launch(s, h, r, w))  # type: ignore[misc]
                assert [k.hash for k in again] == [k.hash for k in kernels]
            for kernel in kernels:
                registers, stack = resources(kernel.asm["cubin"])
                products = len(re.findall(r"\b(?:wgmma|mma)\.\S+", kernel.asm["ptx"]))
                print(f"{name:12} sm_{capability} {kernel.metadata.name:16} {registers:4} registers {stack:4} spilled "
                      f"{kernel.metadata.shared:7} shared {products:4} tensor core products", flush=True)
                assert kernel.metadata.shared <= SHARED[capability]
                assert stack <= SPILLED
                attends = kernel.metadata.name in ("_chunk_kernel", "_decode_kernel")
                assert (products > 0) == (attends and shape[4].itemsize == 2)


if __name__ == "__main__":
    main()
