"""Check of the C++ backend's program: used only if it computes what transformers computes."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import torch

from ...kernels.cpu.build import NoKernelsError, host_target
from ...kernels.cpu.memory import give_back_freed
from ...kernels.cpu.program import Program
from ...kernels.cpu.weights import PackedLinear
from ...model.frozen import FrozenModel
from ...scheduling.batch import StepBatch, packed
from ..backend import ModelRunner
from ..torch.runner import TorchRunner
from .lowering import Lowering
from .runner import CppRunner

log = logging.getLogger(__name__)

# Largest root-mean-square difference of logits, relative to their size. bfloat16 rounds every layer
# of the one and of the other in other places; a wrong or missing term shows as 1.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
_INT8_TOLERANCE = 0.2
_BLOCK_SIZE = 16
_CHECKED_POSITIONS = 21


class ProgramMismatchError(NoKernelsError):
    """Error for a program that is not usable, after the base's modules have lost their weights to
    it: load the base anew."""


def compile_program(base: FrozenModel, *, int8: bool) -> tuple[Program, dict[str, PackedLinear]]:
    """Turn the base into a program; gives it, and the weights that the modules have lost to it.

    Each weight is freed as it is packed; they are given by module. Raises NoKernelsError where the
    base has no program here, ProgramMismatchError where that was found too late to go on with the
    modules.
    """
    host_target()  # raises before anything is computed
    if base.quantised:
        raise NoKernelsError("the base's weights are quantised")
    if base.max_context < _CHECKED_POSITIONS:
        raise NoKernelsError(
            f"a context of {base.max_context} positions is too short for the check"
        )
    batches = _check_batches(base.vocab_size)
    torch_runner = TorchRunner(base, 4, _BLOCK_SIZE)
    expected = [_logits(torch_runner, b, base) for b in batches]
    lowering = Lowering(
        base.model,
        base.config,
        base.attention_calls,
        base.modules if base.takes_adapters else (),
        base.max_context,
        int8,
        base.max_added_tokens,
    )
    try:
        program = lowering.run()
        width = base.vocab_size + base.max_added_tokens
        runner = CppRunner(program, base.kv_shapes, 4, _BLOCK_SIZE, width, base.forward_lock)
        errors = [
            _difference(_logits(runner, b, base), e) for b, e in zip(batches, expected, strict=True)
        ]
    except Exception as problem:  # such as a module without what its kind should have
        if not lowering.freed:
            raise NoKernelsError(str(problem)) from problem
        raise ProgramMismatchError(str(problem)) from problem
    limit = _INT8_TOLERANCE if int8 else _TOLERANCE[base.dtype]
    if not all(error <= limit for error in errors):  # NaN is over every limit
        raise ProgramMismatchError(
            f"the C++ program's logits differ from transformers' by {errors} (limit {limit})"
        )
    give_back_freed()
    log.info(
        "C++ program: logits differ from transformers' by %.1e (limit %.1e)", max(errors), limit
    )
    return program, lowering.packed


def _logits(runner: ModelRunner, batch: StepBatch, base: FrozenModel) -> torch.Tensor:
    """Logits of the base's own vocabulary."""
    return runner.forward(batch).logits[:, : base.vocab_size]


def _difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


def _check_batches(vocab_size: int) -> list[StepBatch]:
    """Two steps of two sequences: both prefill, then one decodes while the other goes on."""
    tables = np.array([[0, 1], [2, 3]], np.int32)
    first, last = _CHECKED_POSITIONS - 1, _CHECKED_POSITIONS
    return [
        _step([(0, first), (0, 7)], tables, vocab_size),
        _step([(first, last), (7, 12)], tables, vocab_size),
    ]


def _step(spans: list[tuple[int, int]], tables: np.ndarray, vocab_size: int) -> StepBatch:
    """Make a step of which every row samples. `spans`: first and last position of each sequence."""
    starts, ends = (np.array(column, np.int32) for column in zip(*spans, strict=True))
    batch = packed(
        np.zeros((ends - starts).sum(), np.int32), ends - starts, ends, tables, _BLOCK_SIZE
    )
    owner = np.repeat(np.arange(len(spans)), ends - starts)
    tokens = ((batch.positions * 7919 + owner * 104729 + 1) % vocab_size).astype(np.int32)
    return replace(batch, tokens=tokens, sampled_rows=np.arange(len(tokens), dtype=np.int32))
