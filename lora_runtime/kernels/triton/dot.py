"""Tile products that are right on hardware and under the interpreter."""

from __future__ import annotations

import triton
from triton import language as tl

INTERPRETED: bool = triton.knobs.runtime.interpret


@triton.jit
def dot(a, b, acc, INTERPRETED: tl.constexpr):
    """acc + a @ b, summed in float32. float32 operands are not rounded to tf32."""
    if INTERPRETED:  # it reads bfloat16 operands as if they were integers
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")
