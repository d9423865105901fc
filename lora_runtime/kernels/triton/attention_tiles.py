"""How much of an attention problem one program takes: tile shapes, by head dims and dtype alone.

Nothing here may depend on the batch: other tiles would give other roundings. The shapes are for the register files and
shared memory of sm_80 and sm_90.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

MIN_SPLIT = 256
"""Keys of a decode row that one program takes at least; a multiple of every tile's keys."""
MAX_SPLITS = 32
"""Programs per decode row and key head at most; longer contexts have longer splits."""
_STAGES = 5
"""Two blocks of keys and values on their way while one is computed with: each also waits for its entry in the table."""


@dataclass(frozen=True)
class Heads:
    """Query heads, key heads, and the dims of keys and of values."""

    heads: int
    kv_heads: int
    dim: int
    dim_v: int


@dataclass(frozen=True)
class Tile:
    """A program's share: `rows` of (query, head) pairs, `pack` of them heads of one key head, by `keys` at a time.

    `parts` programs take a key head's query heads between them.
    """

    rows: int
    keys: int
    pack: int
    parts: int
    block_d: int
    block_dv: int
    warps: int
    stages: int

    @property
    def queries(self) -> int:
        return self.rows // self.pack

    def constants(self, heads: Heads) -> dict[str, int]:
        """As the kernels' constexpr arguments."""
        return {
            "GROUP": heads.heads // heads.kv_heads, "PACK": self.pack, "PARTS": self.parts, "D": heads.dim,
            "DV": heads.dim_v, "BLOCK_M": self.rows, "BLOCK_N": self.keys, "BLOCK_D": self.block_d,
            "BLOCK_DV": self.block_dv}

    def most_splits(self, capacity: int, window: int | None) -> int:
        """Splits of the longest context that fits into `capacity` positions."""
        keys = capacity if window is None else min(capacity, window + self.keys - 1)
        return max(1, min(MAX_SPLITS, -(-keys // MIN_SPLIT)))


def chunk_tile(heads: Heads, dtype: torch.dtype) -> Tile:
    """For sequences of several rows."""
    widest = max(_padded(heads.dim), _padded(heads.dim_v))
    if dtype.itemsize > 2:  # no tensor cores: the products are the registers' work
        rows, keys, warps = 16, 32 if widest <= 64 else 16, 4
    elif widest <= 128:
        rows, keys, warps = 128, 64, 8
    else:
        rows, keys, warps = 64, 32, 8
    pack, parts = _pack(heads, most=min(32, rows))
    return Tile(rows, keys, pack, parts, _padded(heads.dim), _padded(heads.dim_v), warps, _STAGES)


def decode_tile(heads: Heads, dtype: torch.dtype) -> Tile:
    """For sequences of one row: as few rows as the tensor cores take, the memory is what limits."""
    widest = max(_padded(heads.dim), _padded(heads.dim_v))
    pack, parts = _pack(heads, most=64)
    keys = 64 if widest * dtype.itemsize <= 256 else 32
    return Tile(max(16, _power_of_2(pack)), keys, pack, parts, _padded(heads.dim), _padded(heads.dim_v), 4, _STAGES)


def _pack(heads: Heads, most: int) -> tuple[int, int]:
    group = heads.heads // heads.kv_heads
    parts = -(-group // most)
    return -(-group // parts), parts


def _padded(dim: int) -> int:
    return max(16, _power_of_2(dim))


def _power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()
