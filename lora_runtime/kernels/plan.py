"""Tiles of a step's rows that take the same slots, on the device: what the planned LoRA kernels run
over.

As in Punica and S-LoRA (arXiv:2310.18547, arXiv:2311.03285) rows of one adapter are multiplied
together, so that its A and B are read once a tile; here every tile has a list of weighted slots,
for rows under several adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from . import prefill_tiles
from .host_to_device import Packing
from .pieces import pieces
from .slot_table import ModuleGroup

DECODE_TILE = 16
"""Rows of a tile in a step of decode rows: the least that a tensor core multiplies; what is missing
costs no memory."""
PREFILL_TILE = 64 if prefill_tiles.KIND == "wgmma" else prefill_tiles.MOST_MMA_ROWS
DECODE_SPLITS = 8
"""Splits of a shrink's inputs in decode steps, at most: there are few tiles then, and with the
modules of a group and the blocks of a rank this many keep a GPU reading."""
SPLIT = 128
"""The least inputs of a split, and what splits are a multiple of."""

Pairs = list[tuple[int, float]]


class SlotSegment(NamedTuple):
    """Rows `start:end` take `weight` times what lies in a slot. Segments may overlap."""

    start: int
    end: int
    slot: int
    weight: float


def splits(in_features: int, tile_size: int) -> tuple[int, int]:
    """The number of sums over the inputs into which a shrink is cut, and the inputs of each but the
    last.

    By the module's width alone, so that a row is added up in the same order whatever its neighbours
    are.
    """
    most = DECODE_SPLITS if tile_size <= DECODE_TILE else 2
    per_split = -(-in_features // (most * SPLIT)) * SPLIT
    return -(-in_features // per_split), per_split


def hidden_per_row(max_rank: int, groups: Iterable[ModuleGroup], tile_size: int) -> int:
    """Floats of `hidden` that a row under a slot of `max_rank` needs, whichever of `groups` it is
    computed for."""
    return max_rank * max(
        (len(g.outs) * splits(g.in_features, tile_size)[0] for g in groups), default=0
    )


@dataclass(frozen=True)
class LoraPlan:
    """Tiles of neighbouring rows that take the same list of (slot, weight) pairs; on the device.

    The pairs of tile t are `pair_offsets[t]:pair_offsets[t + 1]`, summed in this order. Rows in no
    tile take nothing. Behind what a step uses, buffers of fixed size hold tiles and pairs of no
    rows.
    """

    tile_start: torch.Tensor
    """(tiles,) int32: first row"""
    tile_rows: torch.Tensor
    """(tiles,) int32, at most `tile_size`; 0: unused"""
    pair_offsets: torch.Tensor
    """(tiles + 1,) int32"""
    pair_start: torch.Tensor
    """(pairs,) int32: the first row of the pair's tile"""
    pair_rows: torch.Tensor
    """(pairs,) int32: the rows of the pair's tile; 0: unused"""
    pair_slot: torch.Tensor
    """(pairs,) int32"""
    pair_weight: torch.Tensor
    """(pairs,) float32"""
    pair_hidden: torch.Tensor
    """(pairs,) int64: where in `hidden` the pair's A x lies, module after module of a group:
    (splits, rows, rank) each, the true ranks"""
    hidden: torch.Tensor
    """float32 scratch; holds nothing between two calls"""
    tile_size: int

    def tiles(self) -> Iterator[tuple[int, int, Pairs]]:
        """(start, end, pairs) of the tiles in use, read from the device: for references and tests."""
        offsets = self.pair_offsets.tolist()
        pairs = list(zip(self.pair_slot.tolist(), self.pair_weight.tolist(), strict=True))
        for t, (start, rows) in enumerate(
            zip(self.tile_start.tolist(), self.tile_rows.tolist(), strict=True)
        ):
            if rows:
                yield start, start + rows, pairs[offsets[t] : offsets[t + 1]]


@dataclass(frozen=True)
class PlanArrays:
    """A LoraPlan on the host: the arrays of the same names, and how many floats `hidden` must hold."""

    tile_start: npt.NDArray[np.int32]
    tile_rows: npt.NDArray[np.int32]
    pair_offsets: npt.NDArray[np.int32]
    pair_start: npt.NDArray[np.int32]
    pair_rows: npt.NDArray[np.int32]
    pair_slot: npt.NDArray[np.int32]
    pair_weight: npt.NDArray[np.float32]
    pair_hidden: npt.NDArray[np.int64]
    hidden_floats: int
    tile_size: int

    def to(self, device: torch.device) -> LoraPlan:
        """A plan of exactly this size, copied without waiting for the device."""
        buffers = PlanBuffers(
            len(self.tile_start), len(self.pair_slot), self.hidden_floats, self.tile_size, device
        )
        buffers.fill(self)
        return buffers.plan


def plan_tiles(
    segments: Sequence[SlotSegment], tile_size: int, hidden_of_slot: Callable[[int], int]
) -> PlanArrays:
    """Tiles of the rows of `segments`, a tile's pairs in their order.

    `hidden_of_slot` gives `hidden_per_row` of a slot.
    """
    tiles: list[tuple[int, int]] = []
    pairs: list[tuple[int, int, int]] = []
    weights: list[float] = []
    offsets, hidden = [0], [0]
    for start, end, covering in _alike(segments):
        for first in range(start, end, tile_size):
            rows = min(tile_size, end - first)
            tiles.append((first, rows))
            for slot, weight in covering:
                pairs.append((first, rows, slot))
                weights.append(weight)
                hidden.append(hidden[-1] + rows * hidden_of_slot(slot))
            offsets.append(len(pairs))
    tile_start, tile_rows = np.array(tiles, np.int32).reshape(-1, 2).T
    pair_start, pair_rows, pair_slot = np.array(pairs, np.int32).reshape(-1, 3).T
    return PlanArrays(
        tile_start,
        tile_rows,
        np.array(offsets, np.int32),
        pair_start,
        pair_rows,
        pair_slot,
        np.array(weights, np.float32),
        np.array(hidden[:-1], np.int64),
        hidden[-1],
        tile_size,
    )


def _alike(segments: Sequence[SlotSegment]) -> Iterator[tuple[int, int, Pairs]]:
    """(start, end, pairs) of rows that take the same pairs, as long as they go."""
    begun, end = 0, 0
    current: Pairs = []
    for start, stop, covering in pieces(segments):
        pairs = [(s.slot, s.weight) for s in covering]
        if start != end or pairs != current:
            if current:
                yield begun, end, current
            begun, current = start, pairs
        end = stop
    if current:
        yield begun, end, current


_FIELDS = (
    ("pair_hidden", torch.int64),
    ("pair_weight", torch.float32),
    ("pair_start", torch.int32),
    ("pair_rows", torch.int32),
    ("pair_slot", torch.int32),
    ("tile_start", torch.int32),
    ("tile_rows", torch.int32),
    ("pair_offsets", torch.int32),
)


class PlanBuffers:
    """A plan at addresses that never change, for captured graphs: `.plan`, refilled for every step.

    Holds up to `tiles` tiles and `pairs` pairs and `hidden_floats` of scratch.
    """

    def __init__(
        self, tiles: int, pairs: int, hidden_floats: int, tile_size: int, device: torch.device
    ) -> None:
        counts = {name: pairs if name.startswith("pair_") else tiles for name, _ in _FIELDS}
        counts["pair_offsets"] = tiles + 1
        self._packing = Packing([((counts[name],), dtype) for name, dtype in _FIELDS])
        self._packed = torch.zeros(self._packing.num_bytes, dtype=torch.uint8, device=device)
        hidden = torch.empty(hidden_floats, dtype=torch.float32, device=device)
        self.plan = LoraPlan(hidden=hidden, tile_size=tile_size, **self._views(self._packed))

    def fits(self, arrays: PlanArrays) -> bool:
        plan = self.plan
        return (
            arrays.tile_size == plan.tile_size
            and len(arrays.tile_start) <= len(plan.tile_start)
            and len(arrays.pair_slot) <= len(plan.pair_slot)
            and arrays.hidden_floats <= len(plan.hidden)
        )

    def fill(self, arrays: PlanArrays) -> None:
        """Copy `arrays` behind everything enqueued on the current stream; the host does not wait.

        Raises ValueError if they do not fit.
        """
        if not self.fits(arrays):
            raise ValueError(
                f"{len(arrays.tile_start)} tiles of {arrays.tile_size} rows, {len(arrays.pair_slot)} pairs and "
                f"{arrays.hidden_floats} floats do not fit into this plan"
            )
        # New each time: the one before may not have been read yet.
        staged = self._packing.staging(self._packed.device).zero_()
        for name, view in self._views(staged).items():
            values = getattr(arrays, name)
            view.numpy()[: len(values)] = values
            if name == "pair_offsets":
                view[len(values) :] = int(values[-1])  # unused tiles are empty
        self._packed.copy_(staged, non_blocking=True)

    def _views(self, packed: torch.Tensor) -> dict[str, torch.Tensor]:
        return dict(zip((name for name, _ in _FIELDS), self._packing.views(packed), strict=True))
