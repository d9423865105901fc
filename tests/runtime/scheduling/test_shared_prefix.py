"""Blocks that everybody may find are computed in steps without rows under an adapter of the same
sequence."""

from __future__ import annotations

import random

import pytest

from lora_runtime import SamplingParams
from lora_runtime.requests.sequence import Sequence
from lora_runtime.scheduling.block_allocator import BlockAllocator
from lora_runtime.scheduling.scheduler import Scheduler

from ...support.scheduling import NoSlots

BLOCK = 4


def make_sequence(length: int, start: int) -> Sequence:
    """An adapter works on its positions from `start` on."""
    prompt = tuple(random.Random(length).choices(range(9), k=length))
    seq = Sequence(None, 0, prompt, SamplingParams(), None, 3)  # type: ignore[arg-type]
    seq.base_prefix, seq.kv_version = start, f"v@{start}"
    return seq


@pytest.mark.parametrize("budget", [1, 3, 7, 64])
@pytest.mark.parametrize(("length", "start"), [(21, 10), (21, 0), (8, 8), (13, 3), (30, 29)])
def test_a_chunk_ends_with_the_shared_blocks(length: int, start: int, budget: int) -> None:
    """Preempted halfway and begun again, too."""
    scheduler = Scheduler(
        BlockAllocator(40, BLOCK, prefix_caching=False),
        NoSlots(),
        max_running=2,
        max_batch_tokens=budget,
    )
    seq = make_sequence(length, start)
    scheduler.add(seq)
    shared, ends, again = start // BLOCK * BLOCK, set(), length > 20
    for _ in range(200):
        for row in scheduler.schedule():
            begin, end = seq.num_computed, seq.num_computed + row.count
            assert end <= shared or begin >= shared
            ends.add(end)
            seq.num_computed = end
            scheduler.publish_blocks(seq)
        if again and seq.num_computed > length // 2:
            scheduler._preempt(seq)
            again = False
        elif seq.num_computed == length:
            break
    assert seq.num_computed == length
    assert not shared or shared in ends


def test_what_is_cached_already_costs_no_step() -> None:
    scheduler = Scheduler(BlockAllocator(40, BLOCK), NoSlots(), max_running=2, max_batch_tokens=64)
    steps = []
    for _ in range(2):
        seq = make_sequence(21, 10)
        scheduler.add(seq)
        counts = []
        while seq.num_computed < 21:
            (row,) = scheduler.schedule()
            counts.append(row.count)
            seq.num_computed += row.count
            scheduler.publish_blocks(seq)
        scheduler.finish(seq)
        steps.append(counts)
    assert steps == [[8, 13], [1]]
