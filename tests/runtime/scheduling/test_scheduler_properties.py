"""Property test of the scheduler: a simulated device checks that every row reads its own KV."""

from __future__ import annotations

import math
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from lora_runtime import SamplingParams
from lora_runtime.requests.sequence import Sequence
from lora_runtime.scheduling.batch import ScheduledRow
from lora_runtime.scheduling.block_allocator import BlockAllocator
from lora_runtime.scheduling.scheduler import Scheduler

from ...support.scheduling import NoSlots

BLOCK, BLOCKS = 4, 12


class Device:
    """Remembers for each KV slot which prefix, under which version, it was computed from."""

    def __init__(self) -> None:
        self.slots: dict[int, tuple[str, tuple[int, ...]]] = {}

    def run(self, row: ScheduledRow) -> None:
        seq = row.sequence
        context = seq.num_computed + row.count
        for position in range(seq.num_computed, context):
            self.slots[self._slot(seq, position)] = self._expected(seq, position)
        for position in range(context):
            assert self.slots[self._slot(seq, position)] == self._expected(seq, position)

    def _slot(self, seq: Sequence, position: int) -> int:
        return seq.blocks[position // BLOCK] * BLOCK + position % BLOCK

    def _expected(self, seq: Sequence, position: int) -> tuple[str, tuple[int, ...]]:
        return seq.kv_version, tuple(seq.tokens[: position + 1])


def make_sequence(prompt: list[int], version: str, count: int) -> Sequence:
    seq = Sequence(None, 0, tuple(prompt), SamplingParams(), None, count, tenant=version)  # type: ignore[arg-type]
    seq.kv_version = version
    return seq


jobs = st.lists(
    st.tuples(
        st.lists(st.integers(0, 1), min_size=1, max_size=30),
        st.sampled_from(["", "v1", "v2"]),
        st.integers(1, 15),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(
    jobs,
    st.integers(1, 5),
    st.integers(0, 20),
    st.integers(0, 2**16),
    st.sampled_from([math.inf, 7.5, 0.5]),
)
def test_every_sequence_finishes_on_its_own_kv(
    work: list, max_running: int, extra: int, seed: int, span: float
) -> None:
    rng = random.Random(seed)
    allocator = BlockAllocator(BLOCKS, BLOCK)
    scheduler = Scheduler(
        allocator,
        NoSlots(),
        max_running=max_running,
        max_batch_tokens=max_running + extra,
        attention_span=span,
    )
    pending = [make_sequence(*job) for job in work]
    arrival, first_run, device = list(pending), [], Device()
    live: set[int] = set()
    for _ in range(5000):
        while pending and rng.random() < 0.5:
            scheduler.add(pending[0])
            live.add(id(pending.pop(0)))
        if not live and not pending:
            break
        decoding = [s for s in scheduler.running if s.num_remaining == 1]
        rows = scheduler.schedule()
        check_step(scheduler, rows, decoding)
        for row in rows:
            advance(scheduler, device, row, live)
            if row.sequence not in first_run:
                first_run.append(row.sequence)
        cancel_some(scheduler, rng, live)
    assert not live
    assert allocator.num_used == 0
    # First come, first served within an adapter: the order of first steps is the order of arrival.
    for version in ("", "v1", "v2"):
        ran = [s for s in first_run if s.kv_version == version]
        assert ran == [s for s in arrival if s in ran]


def check_step(scheduler: Scheduler, rows: list[ScheduledRow], decoding: list[Sequence]) -> None:
    scheduled = [row.sequence for row in rows]
    assert rows or not scheduler.waiting
    assert sum(row.count for row in rows) <= scheduler.max_batch_tokens
    assert len(scheduler.running) <= scheduler.max_running
    assert len(set(map(id, scheduled))) == len(scheduled)
    # Prefill never takes a decode row's place: whoever decoded and was not preempted goes on.
    assert all(seq in scheduled for seq in decoding if seq in scheduler.running)


def advance(scheduler: Scheduler, device: Device, row: ScheduledRow, live: set[int]) -> None:
    seq = row.sequence
    device.run(row)
    seq.num_computed += row.count
    scheduler.publish_blocks(seq)
    if seq.num_computed == len(seq.tokens):
        seq.tokens.append(len(seq.tokens) % 2)
        if seq.num_generated >= seq.max_tokens:
            scheduler.finish(seq)
            live.discard(id(seq))


def cancel_some(scheduler: Scheduler, rng: random.Random, live: set[int]) -> None:
    for seq in [*scheduler.running, *scheduler.waiting]:
        if rng.random() < 0.02:
            scheduler.finish(seq)
            live.discard(id(seq))
