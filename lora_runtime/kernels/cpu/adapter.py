"""One adapter as the C++ kernels read it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag

import torch

from ...modules import ModuleKind
from ..updates import ModuleDelta
from .library import ModuleEntry, PackJob, is_bf16, load
from .memory import ALIGN, Arena
from .weights import PANEL

_LANES = 16


class _Packing(IntEnum):
    """Ways to pack a tensor, numbered as in csrc/api.cpp."""

    LORA_A = 0
    LORA_B = 1
    PANELS = 2
    COPY = 3


class _Kinds(IntFlag):
    """Kinds of changes, the bits as in csrc/module.h."""

    RESCALES = 1
    NORMS = 2
    EMBEDDING = 4
    HEAD = 8


@dataclass(frozen=True)
class _Part:
    """A tensor, how it is packed, into how many bytes, and the entry's field that points there."""

    field: str
    packing: _Packing
    tensor: torch.Tensor
    num_bytes: int


class CpuAdapter:
    """A table with one entry per module of the base, all zero where the adapter changes nothing."""

    def __init__(
        self,
        deltas: Mapping[str, ModuleDelta],
        modules: Mapping[str, int],
        arena: Arena | None = None,
    ) -> None:
        """`modules`: the row of every module in the table. The packing is one call without the GIL."""
        self._table = (ModuleEntry * len(modules))()
        self.kinds = 0
        """Bits of a Segment's `kinds`."""
        packed: dict[int, int] = {}  # id of a tensor → its place: a tied weight is there once
        parts: list[tuple[_Part, int]] = []
        places: list[tuple[ModuleEntry, _Part]] = []
        size = 0
        for name, delta in deltas.items():
            entry = self._table[modules[name]]
            entry.rank, entry.scaling, entry.out = delta.rank, delta.scaling, delta.out
            entry.tokens = 0 if delta.token_ids is None else len(delta.token_ids)
            self.kinds |= _kinds(delta)
            for part in _parts(delta):
                if id(part.tensor) not in packed:
                    packed[id(part.tensor)] = size
                    parts.append((part, size))
                    size += -(-part.num_bytes // ALIGN) * ALIGN
                places.append((entry, part))
        self._memory = (arena or Arena(size)).empty(size, torch.uint8)
        self.num_bytes = self.host_bytes = size + ctypes.sizeof(self._table)
        start = self._memory.data_ptr()
        for entry, part in places:
            setattr(entry, part.field, start + packed[id(part.tensor)])
        jobs = (PackJob * len(parts))(*(_job(part, start + offset) for part, offset in parts))
        load().lm_pack_adapter(_is_bf16(deltas), jobs, len(jobs))

    @property
    def address(self) -> int:
        """Address of the table; valid while this object lives."""
        return ctypes.addressof(self._table)


def lora_bytes(rank: int, n_in: int, n_out: int, itemsize: int) -> tuple[int, int]:
    """Bytes of packed A (rank, in) and B (out, rank), as csrc/lora.h lays them out."""
    unit = 4 // itemsize
    return rank * -(-n_in // (_LANES * unit)) * 64, -(-rank // unit) * -(-n_out // _LANES) * 64


def _kinds(delta: ModuleDelta) -> int:
    if delta.kind is ModuleKind.NORM:
        return _Kinds.NORMS
    if delta.kind is ModuleKind.EMBEDDING:
        return _Kinds.EMBEDDING
    head = _Kinds.HEAD if delta.kind is ModuleKind.LM_HEAD else 0
    return head | (_Kinds.RESCALES if delta.rescales else 0)


def _parts(delta: ModuleDelta) -> Iterator[_Part]:
    a, b, dense = delta.a, delta.b, delta.dense
    if a is not None and b is not None:
        a_bytes, b_bytes = lora_bytes(delta.rank, a.shape[1], b.shape[0], b.itemsize)
        yield (
            _copied("a", a)
            if delta.kind is ModuleKind.EMBEDDING
            else _Part("a", _Packing.LORA_A, a, a_bytes)
        )
        yield _Part("b", _Packing.LORA_B, b, b_bytes)
    if dense is not None and delta.kind is ModuleKind.NORM:
        yield _copied("dense", dense)
    elif dense is not None:
        rows, columns = dense.shape
        yield _Part(
            "dense", _Packing.PANELS, dense, -(-rows // PANEL) * PANEL * columns * dense.itemsize
        )
    for field in ("gain", "bias", "token_ids", "token_rows"):
        if (tensor := getattr(delta, field)) is not None:
            yield _copied(field, tensor)


def _copied(field: str, tensor: torch.Tensor) -> _Part:
    return _Part(field, _Packing.COPY, tensor, tensor.nbytes)


def _job(part: _Part, to: int) -> PackJob:
    tensor = part.tensor
    rows, columns = tensor.shape if tensor.ndim == 2 else (tensor.numel(), 1)
    if part.packing is _Packing.COPY:
        columns *= tensor.itemsize
    return PackJob(tensor.data_ptr(), to, part.packing, rows, columns, 0)


def _is_bf16(deltas: Mapping[str, ModuleDelta]) -> bool:
    """Whether bf16 is the dtype of the tensors that are packed in the base's dtype, where there are
    any."""
    tensors = (
        t for d in deltas.values() for t in (d.b, None if d.kind is ModuleKind.NORM else d.dense)
    )
    return next((is_bf16(t.dtype) for t in tensors if t is not None), False)
