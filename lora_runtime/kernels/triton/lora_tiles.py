"""How much of a LoRA update one program takes, by kind of step: what is to be tuned on hardware, as
data."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from .. import prefill_tiles
from ..plan import DECODE_TILE


@dataclass(frozen=True)
class Blocks:
    """A program's share: `rank` rows of A over `inputs` at a time in the shrink, `outputs` of y in
    the expand.

    `rank_programs` share a slot's rank blocks; the expand multiplies `hidden` of h at a time. Warps
    and pipeline stages are those of the two kernels.
    """

    rank: int
    inputs: int
    rank_programs: int
    outputs: int
    loop: bool
    """Whether a program takes one tile or pair after another, where there are more than `along`
    says. Buffers for many rows may hold few, and programs without work cost too; the loop costs
    registers."""
    hidden: int = 32
    shrink_warps: int = 4
    shrink_stages: int = 3
    expand_warps: int = 4
    expand_stages: int = 1
    programs: int = 2048
    """Programs of a launch, about: an H100 runs half of them at once in the shrink, a quarter in
    the expand. gate and up of an 8B Llama are 224 blocks of outputs: with a program for each of 32
    tiles, most of 7,168 would find none."""

    def along(self, count: int, others: int) -> int:
        """Programs along `count` tiles or pairs, where there are `others` for each. A tile's or
        pair's sums are the same whichever program takes it."""
        return min(count, max(1, self.programs // others)) if self.loop else count


# Of those tried on an H100 (`benchmarks.gpu.lease --stages sweep`, then at ranks 64 and 128) the
# fastest at rank 16 that lose at no rank: docs/results/gpu.md.
DECODE = Blocks(
    rank=16, inputs=128, rank_programs=2, outputs=128, loop=True, hidden=16, shrink_warps=2
)
PREFILL = {
    "wgmma": Blocks(rank=32, inputs=128, rank_programs=2, outputs=64, loop=False, shrink_stages=4),
    "mma": Blocks(rank=32, inputs=128, rank_programs=2, outputs=64, loop=False),
}
"""Prefill's blocks by prefill_tiles.KIND."""


def blocks_of(tile_size: int, dtype: torch.dtype) -> Blocks:
    """Blocks for tiles of `tile_size` rows and adapters of `dtype`."""
    if tile_size <= DECODE_TILE:
        return DECODE
    blocks = PREFILL[prefill_tiles.KIND]
    if dtype is torch.float32:  # which no tensor core multiplies
        return replace(blocks, inputs=32, expand_warps=8, shrink_stages=3)
    return blocks
