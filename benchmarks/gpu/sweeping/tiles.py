"""Changes of the LoRA kernels' tiles: one thing at a time, and the corners that should suit a GPU
with much to read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any
from unittest import mock

from lora_runtime.kernels import plan, prefill_tiles
from lora_runtime.kernels.plan import DECODE_TILE, PREFILL_TILE
from lora_runtime.kernels.triton import lora_tiles

SHRINK, EXPAND = "shrink", "expand"
_COMPILED = {
    SHRINK: ("rank", "inputs", "rank_programs", "loop", "shrink_warps", "shrink_stages"),
    EXPAND: ("outputs", "hidden", "loop", "expand_warps", "expand_stages"),
}
"""What a kernel is compiled for; the number of programs is not."""


@dataclass(frozen=True)
class Tiles:
    """Fields of lora_tiles.Blocks that differ from the default's; the most splits of a shrink at
    decode, and the rows of a tile at prefill, where they do."""

    blocks: tuple[tuple[str, int], ...] = ()
    splits: int = 0
    rows: int = 0

    @property
    def name(self) -> str:
        parts = [
            *self.blocks,
            *((n, value) for n, value in (("splits", self.splits), ("rows", self.rows)) if value),
        ]
        return " ".join(f"{name} {value}" for name, value in parts) or DEFAULT_NAME

    @contextmanager
    def applied(self, decode: bool) -> Iterator[int]:
        """While it is entered, launches have these tiles; gives the rows of a plan's tiles."""
        with ExitStack() as stack:
            blocks = self._blocks(decode)
            if decode:
                stack.enter_context(mock.patch.object(lora_tiles, "DECODE", blocks))
                stack.enter_context(
                    mock.patch.object(plan, "DECODE_SPLITS", self.splits or plan.DECODE_SPLITS)
                )
            else:
                stack.enter_context(
                    mock.patch.dict(lora_tiles.PREFILL, {prefill_tiles.KIND: blocks})
                )
            yield DECODE_TILE if decode else self.rows or PREFILL_TILE

    def compiled_as(self, part: str, decode: bool) -> tuple[Any, ...]:
        """Equal where the same kernel is run."""
        values = asdict(self._blocks(decode))
        return part, decode, self.splits, self.rows, *(values[name] for name in _COMPILED[part])

    def _blocks(self, decode: bool) -> lora_tiles.Blocks:
        blocks = lora_tiles.DECODE if decode else lora_tiles.PREFILL[prefill_tiles.KIND]
        return replace(blocks, **dict(self.blocks))  # type: ignore[arg-type]


def _tiles(splits: int = 0, rows: int = 0, **blocks: int) -> Tiles:
    return Tiles(tuple(blocks.items()), splits, rows)


DEFAULT_NAME = "default"
DEFAULT = Tiles()
_TALL = {"outputs": 256, "expand_warps": 8}
_TALLEST = {"outputs": 512, "expand_warps": 8}
DECODE = {
    EXPAND: (
        DEFAULT,
        *(_tiles(outputs=n) for n in (128, 256, 512)),
        *(_tiles(expand_warps=n) for n in (2, 8)),
        *(_tiles(expand_stages=n) for n in (2, 3)),
        *(_tiles(programs=n) for n in (1024, 4096, 8192)),
        _tiles(hidden=16),
        _tiles(hidden=16, programs=8192),
        _tiles(outputs=128, hidden=16),
        _tiles(outputs=128, programs=8192),
        _tiles(outputs=128, hidden=16, programs=8192),
        _tiles(**_TALL),
        _tiles(**_TALL, expand_stages=3),
        _tiles(**_TALL, programs=4096),
        _tiles(**_TALL, hidden=16),
        _tiles(**_TALL, hidden=16, programs=8192),
        _tiles(**_TALLEST),
        _tiles(**_TALLEST, hidden=16),
        _tiles(**_TALLEST, hidden=16, programs=8192),
    ),
    SHRINK: (
        DEFAULT,
        *(_tiles(splits=n) for n in (4, 16)),
        _tiles(rank_programs=1),
        _tiles(splits=16, rank_programs=1),
        _tiles(splits=4, rank_programs=1),
        *(_tiles(shrink_warps=n) for n in (2, 8)),
        *(_tiles(shrink_stages=n) for n in (2, 4)),
        *(_tiles(programs=n) for n in (1024, 4096, 8192)),
        _tiles(inputs=256),
        _tiles(rank_programs=1, inputs=256),
        _tiles(rank_programs=1, shrink_stages=4),
        _tiles(rank_programs=1, shrink_warps=2),
        _tiles(splits=16, rank_programs=1, programs=4096),
        _tiles(splits=16, rank_programs=1, shrink_warps=2),
    ),
}
"""By kernel, for tiles of decode rows."""
PREFILL = {
    EXPAND: (
        DEFAULT,
        _tiles(outputs=128),
        _tiles(outputs=256),
        _tiles(expand_warps=4),
        _tiles(hidden=16),
        _tiles(outputs=128, hidden=16),
        _tiles(outputs=128, expand_warps=4),
        _tiles(expand_stages=2),
        _tiles(rows=32),
        _tiles(rows=32, outputs=128, hidden=16),
        _tiles(rows=128),
        _tiles(rows=128, hidden=16),
    ),
    SHRINK: (
        DEFAULT,
        _tiles(rank=16),
        _tiles(rank=16, rank_programs=1),
        _tiles(rank_programs=1),
        _tiles(inputs=64),
        _tiles(shrink_warps=8),
        *(_tiles(shrink_stages=n) for n in (2, 4)),
        _tiles(rows=32),
        _tiles(rows=128),
    ),
}
"""By kernel, for a prompt's tiles."""
