"""A step on all ranks."""

from __future__ import annotations

import weakref
from dataclasses import replace

from ...errors import EngineFailedError, described
from ...scheduling.batch import StepBatch, StepOutput
from ..backend import ModelRunner, RunnerSpec
from .adapter import ShardedAdapter
from .group import WorkerGroup
from .messages import Forget, Forward, MakeRunner


class TensorParallelRunner:
    """Rank 0's part of the step, and the word to the others to do theirs."""

    def __init__(self, own: ModelRunner, group: WorkerGroup, spec: RunnerSpec) -> None:
        self._own, self._group = own, group
        self._number = group.new_number()
        group.tell(MakeRunner(self._number, spec))
        weakref.finalize(self, group.note, Forget(self._number))

    def forward(self, batch: StepBatch) -> StepOutput:
        """Run the step on all ranks.

        Raises EngineFailedError naming the rank that has ended, where that came in between; and for
        whatever else this rank alone raises, since the others go on in the step.
        """
        message = Forward(self._number, replace(batch, segments=(), sampling=()), _segments(batch))
        try:
            with self._group.stepping():
                self._group.tell(message)
                return self._own.forward(batch)
        except EngineFailedError:
            raise
        except BaseException as error:
            raise EngineFailedError(f"rank 0 failed in a step: {described(error)}") from error


def _segments(batch: StepBatch) -> tuple[tuple[int, int, int, float], ...]:
    found = []
    for segment in batch.segments:
        assert isinstance(segment.adapter, ShardedAdapter)
        found.append((segment.start, segment.end, segment.adapter.number, segment.weight))
    return tuple(found)
