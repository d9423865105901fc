"""Weights in the order in which the kernels read them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

from .library import MAX_RANK, Linear, LoraEntry, is_bf16
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
        """For C; valid while this object lives."""
        scale, bias = (None if t is None else t.data_ptr() for t in (self.scale, self.bias))
        return Linear(self.weight.data_ptr(), scale, bias, self.n, self.k, module, column)


def pack_linear(
    library: ctypes.CDLL, weight: torch.Tensor, bias: torch.Tensor | None = None, int8: bool = False,
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


@dataclass(frozen=True)
class PackedLora:
    """One projection of one adapter in the layout of csrc/lora.h."""

    a: torch.Tensor
    b: torch.Tensor
    rank: int
    scaling: float

    def struct(self) -> LoraEntry:
        """For C; valid while this object lives."""
        return LoraEntry(self.a.data_ptr(), self.b.data_ptr(), self.rank, self.scaling)


def pack_lora(
    library: ctypes.CDLL, a: torch.Tensor, b: torch.Tensor, scaling: float, arena: Arena | None = None
) -> PackedLora:
    """`a`: (r, in), `b`: (out, r), both float32 or both bfloat16. Raises ValueError above MAX_RANK."""
    rank = a.shape[0]
    if rank > MAX_RANK:
        raise ValueError(f"rank {rank} is above {MAX_RANK}, the most that the C++ kernels take")
    sizes = _lora_sizes(library, a, b)
    arena = arena or Arena(Arena.size_of(*sizes))
    packed_a, packed_b = (arena.empty(size // a.itemsize, a.dtype) for size in sizes)
    a, b = a.contiguous(), b.contiguous()
    library.lm_pack_lora(is_bf16(a.dtype), a.data_ptr(), b.data_ptr(), rank, a.shape[1], b.shape[0],
                         packed_a.data_ptr(), packed_b.data_ptr())
    return PackedLora(packed_a, packed_b, rank, scaling)


def lora_bytes(library: ctypes.CDLL, a: torch.Tensor, b: torch.Tensor) -> int:
    """What pack_lora takes from the arena."""
    return Arena.size_of(*_lora_sizes(library, a, b))


def _lora_sizes(library: ctypes.CDLL, a: torch.Tensor, b: torch.Tensor) -> list[int]:
    sizes = (ctypes.c_long * 2)()
    library.lm_lora_bytes(is_bf16(a.dtype), *a.shape, b.shape[0], sizes)
    return list(sizes)
