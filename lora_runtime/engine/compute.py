"""What a step computes for the scheduled rows, and for which of them it could not."""

from __future__ import annotations

import logging
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from ..adapters.store.version import AdapterVersion
from ..backends.backend import ModelRunner
from ..base_model import BaseModel
from ..errors import EngineFailedError
from ..grammars.masks import MaskThreads
from ..requests.sequence import Sequence
from ..sampling.sampling import Sampled, sample
from ..scheduling.batch import BatchPlanner, ScheduledRow, StepOutput
from ..scheduling.scheduler import Scheduler
from .isolation import isolate
from .probe import Probe

log = logging.getLogger(__name__)


@dataclass
class Computed:
    """Outcome of a step.

    `sampled`: what was sampled for whom. `failed`: the sequences that something raised for, and no
    one else's. `faults`: the adapters that no step can run with, and why.
    """

    sampled: list[tuple[Sequence, Sampled]] = field(default_factory=list)
    failed: list[tuple[Sequence, BaseException]] = field(default_factory=list)
    faults: dict[AdapterVersion, BaseException] = field(default_factory=dict)
    distinct_adapters: int = 0
    suspect: Sequence | None = None
    """One that was not computed or not sampled: the device itself may be why."""


class StepComputer:
    """Computes steps; used by the engine thread only.

    What is computed again gives the same: KV is written where it was, and each row draws from its
    stream once per token.
    """

    def __init__(
        self, base: BaseModel, scheduler: Scheduler, runner: ModelRunner, masks: MaskThreads
    ) -> None:
        self._base, self._scheduler, self._runner = base, scheduler, runner
        self._masks = masks
        self._planner = BatchPlanner(scheduler.allocator.block_size)
        self._probe = Probe(base, runner, scheduler.allocator)

    def compute(self, rows: Seq[ScheduledRow]) -> Computed:
        """Compute the rows; when that raises, those that are not at fault.

        Raises what a step of the base alone raises then, and EngineFailedError where a process that
        steps need is lost: there is nobody to go on for.
        """
        computed, raised = Computed(), False
        try:
            self._run(rows, computed)
        except EngineFailedError:
            raise
        except BaseException:
            log.exception("a step of %d sequences raised: its parts run alone", len(rows))
            raised = True
        if raised:  # not above, where the exception holds all that the step had made
            self._isolate(rows, computed)
        if computed.suspect is not None:
            self._probe.check_base(computed.suspect)
        return computed

    def _run(self, rows: Seq[ScheduledRow], computed: Computed) -> None:
        """Compute rows; what this raises has changed nothing but the KV behind what was computed."""
        batch = self._planner.plan(rows)
        # Not before they run: what is compiled takes memory.
        if new := [g for r in rows if (g := r.sequence.grammar) is not None and not g.is_begun]:
            self._masks.start(new)
        output = self._runner.forward(batch)
        computed.distinct_adapters = batch.distinct_adapters
        grammars = [s.grammar for s in batch.sampling if s.grammar is not None]
        late = {id(grammar) for grammar in self._masks.settle(grammars)}
        for row in rows:
            row.sequence.num_computed += row.count
            if late and id(row.sequence.grammar) in late:
                row.sequence.num_computed -= 1  # its last token runs again, with the mask
            try:
                self._scheduler.publish_blocks(row.sequence)
            except BaseException as error:
                log.exception("blocks cannot be published")
                computed.failed.append((row.sequence, error.with_traceback(None)))
        sampling = batch.sampling
        if late:
            self._planner.forget()  # rows do not all go one token further
            kept = [i for i, seq in enumerate(sampling) if id(seq.grammar) not in late]
            output = StepOutput(output.logits[kept], [output.greedy[i] for i in kept])
            sampling = [sampling[i] for i in kept]
        if sampling:
            self._sample(output, sampling, computed)

    def _isolate(self, rows: Seq[ScheduledRow], computed: Computed) -> None:
        def again(part: Seq[ScheduledRow]) -> None:
            self._planner.forget()
            try:
                self._run(part, computed)
            finally:
                self._planner.forget()

        failed, faults = isolate(rows, again, self._probe.fault_of)
        computed.distinct_adapters = len({v for row in rows for v in row.sequence.versions})
        computed.failed += failed
        computed.faults |= faults
        if failed:
            computed.suspect = failed[0][0]

    def _sample(self, output: StepOutput, sequences: Seq[Sequence], computed: Computed) -> None:
        """Sample; where that raises, by halves."""
        try:
            sampled = sample(output, sequences, self._base.sample_rows)
        except BaseException as error:
            log.exception("sampling %d rows raised", len(sequences))
            if len(sequences) == 1:
                computed.failed.append((sequences[0], error.with_traceback(None)))
                computed.suspect = sequences[0]
                return
        else:
            computed.sampled += zip(sequences, sampled, strict=True)
            return
        for seq in sequences:
            seq.counts, seq.keeps_draw = None, True  # counts may be half done
        middle = len(sequences) // 2
        for part in (slice(middle), slice(middle, None)):
            half = StepOutput(output.logits[part], output.greedy[part])
            self._sample(half, sequences[part], computed)
