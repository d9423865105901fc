"""How much of an attention problem one program takes: tile shapes, by head dims and dtype alone.

Nothing here may depend on the batch: other tiles would give other roundings. The shapes fit the
register files of sm_80 and later, and the shared memory that any of those has: 99 KiB for a program
on sm_86 and sm_89. On sm_90, which has more, a chunk's queries lie there too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...errors import BaseModelError
from .. import prefill_tiles

MAX_DIM = 512
"""Largest dim of a head's keys or values."""
MIN_SPLIT = 256
"""Keys of a decode row that one program takes at least; a multiple of every tile's keys."""
MAX_SPLITS = 32
"""Most splits of a decode row's keys; longer contexts have longer splits."""
_PROGRAMS = 2048
"""Programs of a decode launch, about: five times what an H100 runs at once. Capacities may have
many more splits than contexts do, and programs that find none cost about a microsecond for each
time that the GPU is filled with them."""
_LEAST_PROGRAMS = 4
"""Programs per decode row and key head, however many rows there are."""
_DEEP = 5
"""Stages: two blocks of keys and values on their way while one is computed with. Each also waits
for its entry in the table, which is why there are two stages more."""
_SHALLOW = 4
"""One block on its way."""


@dataclass(frozen=True)
class Heads:
    """Query heads, key heads, and the dims of keys and of values."""

    heads: int
    kv_heads: int
    dim: int
    dim_v: int


@dataclass(frozen=True)
class Tile:
    """A program's share: `rows` of (query, head) pairs, `pack` of them heads of one key head, by
    `keys` at a time.

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
        """The kernels' constexpr arguments."""
        return {
            "GROUP": heads.heads // heads.kv_heads,
            "PACK": self.pack,
            "PARTS": self.parts,
            "D": heads.dim,
            "DV": heads.dim_v,
            "BLOCK_M": self.rows,
            "BLOCK_N": self.keys,
            "BLOCK_D": self.block_d,
            "BLOCK_DV": self.block_dv,
        }

    def most_splits(self, capacity: int, window: int | None) -> int:
        """Splits of the longest context that fits into `capacity` positions."""
        keys = capacity if window is None else min(capacity, window + self.keys - 1)
        return max(1, min(MAX_SPLITS, -(-keys // MIN_SPLIT)))

    def split_programs(self, splits: int, sequences: int, kv_heads: int) -> int:
        """How many programs take the `splits` of a row and key head in turn. Each split is summed
        as it is in a program of its own, so a row's result does not depend on the number of rows.
        """
        return min(splits, max(_LEAST_PROGRAMS, _PROGRAMS // (sequences * kv_heads * self.parts)))


def check_heads(dim: int, dim_v: int, dtype: torch.dtype) -> None:
    """Raises BaseModelError for head dims that no tile has room for."""
    if max(dim, dim_v) > MAX_DIM:
        raise BaseModelError(
            f"the Triton attention takes head dims up to {MAX_DIM}, not {dim} and {dim_v}: "
            "use kernels torch"
        )


def chunk_tile(heads: Heads, dtype: torch.dtype) -> Tile:
    """The tile for sequences of several rows."""
    block_d, block_dv = _padded(heads.dim), _padded(heads.dim_v)
    widest = max(block_d, block_dv)
    if dtype.itemsize > 2:  # no tensor cores: the products are the registers' work
        rows, keys, stages = 16, 32 if widest <= 64 else 16, 2
        warps = 4 if widest <= 128 else 8
    elif widest <= 128:
        rows, keys, warps, stages = 128, 64, 8, _DEEP
    elif widest <= 256:
        rows, keys, warps, stages = 64, 32, 8, _SHALLOW
    else:
        rows, keys, warps, stages = 16, 16, 8, _SHALLOW
    if rows > _most_rows():
        rows, warps = _most_rows(), 4
    pack, parts = _pack(heads, most=min(32, rows))
    return Tile(rows, keys, pack, parts, block_d, block_dv, warps, stages)


def decode_tile(heads: Heads, dtype: torch.dtype) -> Tile:
    """The tile for sequences of one row: as few rows as the tensor cores take, the memory is what
    limits."""
    block_d, block_dv = _padded(heads.dim), _padded(heads.dim_v)
    widest = max(block_d, block_dv)
    if dtype.itemsize > 2:
        most, keys, stages = 16, 16, 2
    else:  # at most 64 sums a thread
        most, keys = min(64, 8192 // widest, _most_rows()), 8192 // max(128, widest)
        stages = _DEEP if widest <= 256 else _SHALLOW
    pack, parts = _pack(heads, most)
    warps = 4 if widest <= 256 else 8
    return Tile(max(16, _power_of_2(pack)), keys, pack, parts, block_d, block_dv, warps, stages)


def _most_rows() -> int:
    """The most rows of a tile that tensor cores multiply."""
    return prefill_tiles.MOST_MMA_ROWS if prefill_tiles.KIND == "mma" else 128


def _pack(heads: Heads, most: int) -> tuple[int, int]:
    group = heads.heads // heads.kv_heads
    parts = -(-group // most)
    return -(-group // parts), parts


def _padded(dim: int) -> int:
    return max(16, _power_of_2(dim))


def _power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()
