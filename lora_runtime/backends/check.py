"""Check of a backend at every load: its steps give what transformers' own forward gives.

Architectures differ in more than their modules and calls tell: which rows see which, what a layer
keeps between steps, what it takes from its neighbours. So each base runs one short sequence as
requests run: in two chunks and decode rows, beside another sequence, over scattered KV blocks.
"""

from __future__ import annotations

import logging
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch

from ..errors import BaseModelError
from ..model.frozen import FrozenModel
from ..model.own_forward import BESIDE, Floats, LayerOutputs, OwnForward
from ..scheduling.batch import StepBatch, packed
from .backend import ModelRunner, RunnerSpec

log = logging.getLogger(__name__)

_BLOCK_SIZE = 16
_FEW = 4
"""Positions, in two steps, where each takes long."""
_SECOND_CHUNK = 10
_LIMIT = 1e-4
"""Largest root-mean-square difference of logits, relative to their size."""
_LIMITS = {torch.bfloat16: 0.1, torch.float16: 0.05}
"""The same by dtype: 16 bits round every layer in other places where rows are in other shapes; a
wrong or missing term shows as 1."""
_ROUNDED = 0.2
"""The same where weights or activations are rounded to fewer bits."""
_ROUTES = re.compile("moe|expert|router", re.IGNORECASE)
_LOGITS = "logits"

Span = tuple[int, int]
"""First and last position of a sequence that a step computes."""


class StepCheck:
    """Check of the steps on one base. `spec` is what the runner of the check is made with."""

    def __init__(
        self, frozen: FrozenModel, *, rounds_weights: bool = False, interprets: bool = False
    ) -> None:
        """Take the base, whose own forward has run. The others: as of a Backend."""
        assert frozen.own is not None, "the base was checked before"
        self._frozen, self._own = frozen, frozen.own
        self._length = min(len(self._own.tokens), _FEW if interprets else sys.maxsize)
        rounded = rounds_weights or frozen.quantised
        self._limit = _ROUNDED if rounded else _LIMITS.get(frozen.dtype, _LIMIT)
        blocks = -(-self._length // _BLOCK_SIZE) + 1
        self.spec = RunnerSpec(
            blocks, _BLOCK_SIZE, max_running=2, max_context=self._length, cuda_graphs=False
        )

    def run(self, runner: ModelRunner) -> None:
        """Hold the runner to transformers' own forward.

        Raises BaseModelError for a difference that rounding does not make, naming the layer where
        it begins if the runner calls transformers' layers.
        """
        found = _Differences(self._own)
        model, kind = self._frozen.model, type(self._frozen.model).__name__
        try:
            with LayerOutputs(model, [path for path in self._own.layers if path]) as layers:
                for spans in _steps(self._length):
                    batch = self._batch(spans)
                    logits = runner.forward(batch).logits[:, : self._frozen.vocab_size]
                    found.note(spans, logits, layers.take(len(batch.tokens)))
        except Exception as error:
            raise BaseModelError(
                f"{kind} cannot be run as steps are: {type(error).__name__}: {error}"
            ) from error
        phase, apart = found.worst(_rounds_routes(self._frozen))
        if apart > self._limit:
            raise BaseModelError(
                f"{kind}: steps differ from transformers' own forward by {apart:.1e} (limit "
                f"{self._limit:.0e}) in {phase}{found.beginning(phase, self._limit)}: not supported"
            )
        log.info(
            "steps differ from transformers' own forward by %.1e (limit %.0e)", apart, self._limit
        )

    def _batch(self, spans: Sequence[Span]) -> StepBatch:
        """Make a step. The sequence's KV blocks are taken from the last to the second."""
        tables = np.zeros((2, self.spec.num_blocks - 1), np.int32)
        tables[0] = np.arange(self.spec.num_blocks - 1, 0, -1)
        starts, ends = (np.array(column, np.int32) for column in zip(*spans, strict=True))
        counts = ends - starts
        batch = packed(np.zeros(counts.sum(), np.int32), counts, ends, tables, _BLOCK_SIZE)
        sampled = np.flatnonzero(np.isin(batch.positions, self._own.kept)).astype(np.int32)
        return replace(batch, tokens=self._own.tokens[batch.positions], sampled_rows=sampled)


def _rounds_routes(frozen: FrozenModel) -> bool:
    """True if rounding may send single rows to other experts: half of them tell the difference."""
    return frozen.dtype != torch.float32 and any(
        _ROUTES.search(path) or _ROUTES.search(type(module).__name__)
        for path, module in frozen.model.named_modules()
    )


def _steps(length: int) -> list[list[Span]]:
    """Spans of the sequence, and of its own beginning beside it, step by step."""
    last = length - 1
    if length <= _FEW:
        spans = [[(0, 2), (0, 1)], [(2, length), (1, 2)]]
    else:
        beside, second = min(BESIDE, length) - 2, max(last - _SECOND_CHUNK, last // 2)
        spans = [
            [(0, second), (0, beside)],
            [(second, last), (beside, beside + 1)],
            [(last, length), (beside + 1, beside + 2)],
        ]
    steps = [[(a, b) for a, b in step if a < b <= length] for step in spans]
    return [step for step in steps if step]


def _phase(start: int, end: int) -> str:
    if end - start == 1:
        return "decode rows"
    return "a first chunk" if start == 0 else "a second chunk"


class _Differences:
    """What steps gave against what was expected: mean squares by row, of each phase and place."""

    def __init__(self, own: OwnForward) -> None:
        self._own = own
        self._last = next(reversed([*own.layers]), "")
        self._rows: dict[str, dict[str, list[tuple[float, float]]]] = {}

    def note(self, spans: Sequence[Span], logits: torch.Tensor, layers: dict[str, Floats]) -> None:
        """Note a step's logits, and what its layers gave."""
        own, row, sampled = self._own, 0, 0
        for start, end in spans:
            rows, row = slice(row, row + end - start), row + end - start
            kept = np.flatnonzero((own.kept >= start) & (own.kept < end))
            mine, sampled = logits[sampled : sampled + len(kept)], sampled + len(kept)
            phase = self._rows.setdefault(_phase(start, end), {})
            _add(phase, _LOGITS, mine, own.logits[kept, : mine.shape[1]])
            for path in layers.keys() & own.layers.keys():
                given, wanted = layers[path][:, rows], own.layers[path][:, start:end]
                if given.shape == wanted.shape:
                    _add(phase, path, torch.from_numpy(given), torch.from_numpy(wanted))

    def worst(self, middle: bool) -> tuple[str, float]:
        """The phase in which steps differ most, and by how much: the logits, and what the last
        layer gave, which logits that a base bends do not show.

        `middle`: by the row in the middle, else by the root of their mean square.
        """
        errors = {
            phase: max(
                _error(rows[place], middle) for place in (_LOGITS, self._last) if place in rows
            )
            for phase, rows in self._rows.items()
        }
        phase = max(errors, key=errors.__getitem__)
        return phase, errors[phase]

    def beginning(self, phase: str, limit: float) -> str:
        """Where the difference begins: the layer behind which it has grown most."""
        rows = self._rows[phase]
        paths = [path for path in self._own.layers if path in rows]
        if not paths:
            return ""
        errors = [max(limit / 100, _error(rows[path])) for path in [*paths, _LOGITS]]
        grown = [after / before for before, after in pairwise([limit / 100, *errors])]
        most = grown.index(max(grown))
        if most == len(paths):
            return ", behind the last layer"
        return f", from layer {paths[most]!r} on" if paths[most] else ", before the first layer"


def _add(
    phase: dict[str, list[tuple[float, float]]],
    place: str,
    given: torch.Tensor,
    wanted: torch.Tensor,
) -> None:
    same = given == wanted  # such as columns that a base masks: -inf in both
    apart = torch.where(same, 0, given - wanted).square().mean(-1).flatten()
    size = torch.where(same & wanted.isinf(), 0, wanted).square().mean(-1).flatten()
    phase.setdefault(place, []).extend(zip(apart.tolist(), size.tolist(), strict=True))


def _error(rows: Sequence[tuple[float, float]], middle: bool = False) -> float:
    """Difference relative to the size of all rows; infinite where it is no number."""
    apart, size = np.array(rows).T
    error = float(np.sqrt((np.median if middle else np.mean)(apart) / max(size.mean(), 1e-30)))
    return error if math.isfinite(error) else math.inf
