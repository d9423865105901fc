"""Weights in the order in which the kernels read them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

from .library import Linear, is_bf16
from .memory import Arena

PANEL = 48


@dataclass(frozen=True)
class PackedLinear:
    """A frozen (out, in) weight as panels of 48 outputs; `scale` (out,) only for int8."""

    weight: torch.Tensor
    scale: torch.Tensor | None
    bias: torch.Tensor | None
    n: int
    k: int

    def struct(self, module: int = -1, column: int = 0) -> Linear:
        """The structure for C; valid while this object lives."""
        scale, bias = (None if t is None else t.data_ptr() for t in (self.scale, self.bias))
        return Linear(self.weight.data_ptr(), scale, bias, self.n, self.k, module, column)


def pack_linear(
    library: ctypes.CDLL,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    int8: bool = False,
    arena: Arena | None = None,
) -> PackedLinear:
    """`weight`: (out, in), in even unless float32. int8 is symmetric with one scale per output."""
    n, k = weight.shape
    size = -(-n // PANEL) * PANEL * k
    arena = arena or Arena(size * weight.itemsize)
    bias = None if bias is None else bias.detach().float().contiguous()
    if int8:
        values, scale = quantize_int8(weight)
        packed = arena.empty(size, torch.int8)
        library.lm_pack_int8(values.data_ptr(), n, k, packed.data_ptr())
        return PackedLinear(packed, scale, bias, n, k)
    weight = weight.detach().contiguous()
    packed = arena.empty(size, weight.dtype)
    library.lm_pack(is_bf16(weight.dtype), weight.data_ptr(), n, k, packed.data_ptr())
    return PackedLinear(packed, None, bias, n, k)


def quantize_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`weight` (out, in) to int8 (out, in) and scale (out,): weight is about scale * int8."""
    weight = weight.detach().float()
    scale = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
    return (weight / scale[:, None]).round().to(torch.int8).contiguous(), scale.contiguous()


def unpack_rows(
    library: ctypes.CDLL, packed: PackedLinear, start: int, end: int, dtype: torch.dtype
) -> torch.Tensor:
    """Rows `start:end` of the weight, (rows, in) float32, int8 as what it stands for; `dtype` as
    for the kernels."""
    out = torch.empty(end - start, packed.k)
    library.lm_unpack(is_bf16(dtype), packed.struct(), start, end - start, out.data_ptr())
    return out


def updated_norms(
    library: ctypes.CDLL,
    packed: PackedLinear,
    a: torch.Tensor,
    b: torch.Tensor,
    scaling: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """(out,) norms over the inputs of W + scaling * B A, in float32; `a` (r, in), `b` (out, r)."""
    columns, rows = a.float().t().contiguous(), b.float().contiguous()
    norms = torch.empty(packed.n)
    library.lm_updated_norms(
        is_bf16(dtype),
        packed.struct(),
        columns.data_ptr(),
        rows.data_ptr(),
        len(a),
        scaling,
        norms.data_ptr(),
    )
    return norms
