"""Compiles the attention kernels for A100 and H100 in the shapes of real models, and checks what they take.

`python -m tests.support.attention_launches [SHAPE ...]` prints a line per kernel; without TRITON_INTERPRET.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from lora_runtime.kernels.attention import AttentionPlan

from .triton_compile import compiled

BF16 = torch.bfloat16
SHAPES: dict[str, tuple[tuple[int, int, int, int, torch.dtype], dict[str, Any]]] = {
    "Llama 3 8B": ((32, 8, 128, 128, BF16), {}),
    "odd dims": ((14, 2, 40, 33, torch.float16), {"window": 300, "softcap": 50.0}),
    "Gemma 2": ((8, 4, 256, 256, BF16), {"window": 4096, "softcap": 50.0}),
    "float32": ((9, 3, 64, 64, torch.float32), {}),
}
SHARED = {80: 163 << 10, 90: 227 << 10}
"""Bytes that one program may take."""
SPILLED = 128
"""Bytes per thread, in the kernels that fill sm_80's registers."""


def launch(shape: tuple[int, int, int, int, torch.dtype], how: dict[str, Any]) -> None:
    """A mixed step of a chunk and a decode row over two blocks' worth of splits, and its write."""
    from lora_runtime.kernels.triton.attention import paged_attention
    from lora_runtime.kernels.triton.cache import write_kv

    heads, kv_heads, dim, dim_v, dtype = shape
    k_cache, v_cache = (torch.zeros(2048, kv_heads, d, dtype=dtype) for d in (dim, dim_v))
    ints = [torch.tensor(v, dtype=torch.int32) for v in ([0] * 8, [0, 7, 8], [64, 1000])]
    plan = AttentionPlan(*ints, torch.zeros(2, 64, dtype=torch.int32), block_size=16)
    paged_attention(torch.zeros(8, heads, dim, dtype=dtype), k_cache, v_cache, plan, scaling=0.1, **how)
    write_kv(k_cache[:8].clone(), v_cache[:8].clone(), k_cache, v_cache, plan.slots)


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack (what was spilled) per thread."""
    from triton import knobs

    tool = Path(knobs.nvidia.cuobjdump.path)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", told)
    assert found is not None, told
    return int(found[1]), int(found[2])


def main() -> None:
    for name in sys.argv[1:] or SHAPES:
        shape, how = SHAPES[name]
        for capability, limit in SHARED.items():
            kernels = compiled(capability, lambda shape=shape, how=how: launch(shape, how))  # type: ignore[misc]
            assert len(kernels) == 4, kernels
            for kernel in kernels:
                registers, stack = resources(kernel.asm["cubin"])
                products = len(re.findall(r"\b(?:wgmma|mma)\.\S+", kernel.asm["ptx"]))
                print(f"{name:12} sm_{capability} {kernel.metadata.name:16} {registers:4} registers {stack:4} spilled "
                      f"{kernel.metadata.shared:7} shared {products:4} tensor core products", flush=True)
                assert kernel.metadata.shared <= limit
                assert stack <= SPILLED
                attends = kernel.metadata.name in ("_chunk_kernel", "_decode_kernel")
                assert (products > 0) == (attends and shape[4].itemsize == 2)


if __name__ == "__main__":
    main()
