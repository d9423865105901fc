"""Check of a backend at every load: its steps give what transformers' own forward gives.

Architectures differ in more than their modules and calls tell: which rows see which, what a layer
keeps between steps, what it takes from its neighbours. So each base runs one short sequence as
requests run: in two chunks and decode rows, beside another sequence, over scattered KV blocks.
"""

from __future__ import annotations

import logging
import math
import re
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
_SECOND_CHUNK = 10
"""Rows of the second chunk."""
_LIMITS = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.05}
"""Largest root-mean-square difference of logits, relative to their size. 16 bits round every layer
in other places where rows are in other shapes; a wrong or missing term shows as 1."""
_ROUNDED = 0.2
"""The same where weights or activations are rounded to fewer bits."""
_ROUTES = re.compile("moe|expert|router", re.IGNORECASE)
_LOGITS = "logits"

Span = tuple[int, int]
"""First and last position of a sequence that a step computes."""


def limit_of(frozen: FrozenModel, *, rounded: bool = False) -> float:
    """Largest difference that rounding may make. `rounded`: weights are, to fewer bits."""
    return _ROUNDED if rounded or frozen.quantised else _LIMITS[frozen.dtype]


def _rounds_routes(frozen: FrozenModel) -> bool:
    """True if rounding may send single rows to other experts: half of them tell the difference."""
    return frozen.dtype != torch.float32 and any(
        _ROUTES.search(path) or _ROUTES.search(type(module).__name__)
        for path, module in frozen.model.named_modules()
    )


def spec_of(frozen: FrozenModel) -> RunnerSpec:
    """What a runner is made with that `check_steps` can run."""
    length = len(own_of(frozen).tokens)
    return RunnerSpec(
        -(-length // _BLOCK_SIZE) + 1,
        _BLOCK_SIZE,
        max_running=2,
        max_context=length,
        cuda_graphs=False,
    )


def own_of(frozen: FrozenModel) -> OwnForward:
    assert frozen.own is not None, "the base was checked before"
    return frozen.own


def check_steps(frozen: FrozenModel, runner: ModelRunner, limit: float) -> None:
    """Hold a runner, made as `spec_of` says, to transformers' own forward.

    Raises BaseModelError for a difference above `limit`, naming the layer where it begins if the
    runner calls transformers' layers.
    """
    own, kind = own_of(frozen), type(frozen.model).__name__
    found = _Differences(own)
    try:
        with LayerOutputs(frozen.model, [path for path in own.layers if path]) as layers:
            for spans in _steps(len(own.tokens)):
                batch = _batch(spans, own)
                logits = runner.forward(batch).logits[:, : frozen.vocab_size]
                found.note(spans, logits, layers.take(len(batch.tokens)))
    except Exception as error:
        raise BaseModelError(
            f"{kind} cannot be run as steps are: {type(error).__name__}: {error}"
        ) from error
    phase, apart = found.worst(_rounds_routes(frozen))
    if apart > limit:
        raise BaseModelError(
            f"{kind}: steps differ from transformers' own forward by {apart:.1e} (limit "
            f"{limit:.0e}) in {phase}{found.beginning(phase, limit)}: not supported"
        )
    log.info("steps differ from transformers' own forward by %.1e (limit %.0e)", apart, limit)


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


def _steps(length: int) -> list[list[Span]]:
    """Spans of the sequence, and of its own beginning beside it, step by step."""
    last, beside = length - 1, max(1, min(BESIDE, length) - 2)
    second = max(last - _SECOND_CHUNK, (last + 1) // 2)
    steps: list[list[Span]] = [
        [(0, second), (0, beside)],
        [(second, last), (beside, beside + 1)],
        [(last, last + 1), (beside + 1, beside + 2)],
    ]
    return [[(a, min(b, length)) for a, b in spans] for spans in steps]


def _phase(start: int, end: int) -> str:
    if end - start == 1:
        return "decode rows"
    return "a first chunk" if start == 0 else "a second chunk"


def _batch(spans: Sequence[Span], own: OwnForward) -> StepBatch:
    """Make the step. The sequence's KV blocks are taken from the last to the second."""
    blocks = -(-len(own.tokens) // _BLOCK_SIZE)
    tables = np.zeros((2, blocks), np.int32)
    tables[0] = np.arange(blocks, 0, -1)
    starts, ends = (np.array(column, np.int32) for column in zip(*spans, strict=True))
    batch = packed(
        np.zeros((ends - starts).sum(), np.int32), ends - starts, ends, tables, _BLOCK_SIZE
    )
    sampled = np.flatnonzero(np.isin(batch.positions, own.kept)).astype(np.int32)
    return replace(batch, tokens=own.tokens[batch.positions], sampled_rows=sampled)
