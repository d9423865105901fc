"""One tenant, or one caller, fills the engine: another's request waits neither for a place nor for
the crowd's prefill."""

from __future__ import annotations

from typing import Any

import pytest

from lora_runtime import SamplingParams
from lora_runtime.requests.sequence import Sequence
from lora_runtime.scheduling.batch import ScheduledRow
from lora_runtime.scheduling.block_allocator import BlockAllocator
from lora_runtime.scheduling.fairness import FairQueue
from lora_runtime.scheduling.scheduler import Scheduler

from ...support.scheduling import NoSlots


def sequence(tenant: str, prompt: int, priority: int = 0) -> Sequence:
    nobody: Any = None
    seq = Sequence(
        nobody, 0, (1,) * prompt, SamplingParams(), nobody, 99, tenant=tenant, priority=priority
    )
    seq.kv_version = tenant
    return seq


def make_scheduler(max_running: int = 4, blocks: int = 100) -> Scheduler:
    return Scheduler(
        BlockAllocator(blocks, 16, False), NoSlots(), max_running=max_running, max_batch_tokens=16
    )


def step(scheduler: Scheduler) -> list[tuple[str, int]]:
    """Runs a step; (tenant, tokens) of its rows, sorted."""
    rows: list[ScheduledRow] = scheduler.schedule()
    found = sorted((row.sequence.tenant, row.count) for row in rows)
    for row in rows:
        row.sequence.num_computed += row.count
        if not row.sequence.num_remaining:
            row.sequence.tokens.append(1)
            scheduler.waiting.charge(row.sequence.tenant, 2)
    return found


def fill(scheduler: Scheduler, count: int, prompt: int = 1, priority: int = 0) -> None:
    for _ in range(count):
        scheduler.add(sequence("heavy", prompt, priority))


def test_a_crowd_makes_way() -> None:
    scheduler = make_scheduler()
    fill(scheduler, 6)
    assert step(scheduler) == [("heavy", 1)] * 4
    youngest = scheduler.running[-1]
    scheduler.add(sequence("light", 5))
    assert step(scheduler) == [("heavy", 1)] * 3 + [("light", 5)]
    assert scheduler.preemptions == 1
    assert scheduler.waiting.heads() == [youngest]
    for _ in range(2):
        scheduler.add(sequence("light", 5))
    # Half of the places each: nobody is a crowd any more.
    assert step(scheduler) == [("heavy", 1)] * 2 + [("light", 1), ("light", 5)]
    assert step(scheduler) == [("heavy", 1)] * 2 + [("light", 1), ("light", 1)]
    assert scheduler.preemptions == 2


def test_a_crowd_makes_way_in_memory_too() -> None:
    scheduler = make_scheduler(max_running=8, blocks=4)
    fill(scheduler, 4)
    assert step(scheduler) == [("heavy", 1)] * 4
    scheduler.add(sequence("light", 10))
    assert step(scheduler) == [("heavy", 1)] * 3 + [("light", 10)]


def test_the_crowds_prefill_waits_for_others() -> None:
    scheduler = make_scheduler(max_running=8)
    fill(scheduler, 3)
    fill(scheduler, 1, prompt=100)
    assert step(scheduler) == [("heavy", 1)] * 3 + [("heavy", 13)]
    scheduler.add(sequence("light", 20))
    assert step(scheduler) == [("heavy", 1)] * 3 + [("light", 13)]
    assert step(scheduler) == [("heavy", 1)] * 3 + [
        ("light", 7)
    ]  # a short step, for the light one's sake
    assert step(scheduler) == [("heavy", 1)] * 3 + [("heavy", 12), ("light", 1)]


def test_priority_comes_before_that() -> None:
    scheduler = make_scheduler()
    fill(scheduler, 6, priority=1)
    assert step(scheduler) == [("heavy", 1)] * 4
    scheduler.add(sequence("light", 5))
    assert step(scheduler) == [("heavy", 1)] * 4
    assert scheduler.preemptions == 0


def of_caller(caller: str, prompt: int, tenant: str = "base") -> Sequence:
    seq = sequence(tenant, prompt)
    seq.caller = caller
    return seq


def step_of_callers(scheduler: Scheduler) -> list[tuple[str, int]]:
    """Runs a step; (caller, tokens) of its rows, sorted."""
    rows = scheduler.schedule()
    for row in rows:
        row.sequence.num_computed += row.count
        if not row.sequence.num_remaining:
            row.sequence.tokens.append(1)
            scheduler.waiting.charge(row.sequence.tenant, 2, row.sequence.caller)
    return sorted((row.sequence.caller, row.count) for row in rows)


@pytest.mark.parametrize("tenants", [["base"] * 4, ["a0", "a1", "a2", "a3"]], ids=["one", "four"])
def test_a_caller_makes_way_for_another(tenants: list[str]) -> None:
    """Of the same adapter, or of any."""
    scheduler = make_scheduler()
    for tenant in (*tenants, *tenants):
        scheduler.add(of_caller("alice", 1, tenant))
    assert step_of_callers(scheduler) == [("alice", 1)] * 4
    for _ in range(3):
        scheduler.add(of_caller("bob", 5))
    assert step_of_callers(scheduler) == [("alice", 1)] * 2 + [("bob", 5), ("bob", 5)]
    assert step_of_callers(scheduler) == [("alice", 1)] * 2 + [("bob", 1), ("bob", 1)]
    assert scheduler.preemptions == 2  # half of the places each: nobody is a crowd any more


def test_a_callers_prefill_waits_for_others() -> None:
    scheduler = make_scheduler(max_running=8)
    for prompt in (1, 1, 1, 100):
        scheduler.add(of_caller("alice", prompt))
    assert step_of_callers(scheduler) == [("alice", 1)] * 3 + [("alice", 13)]
    scheduler.add(of_caller("bob", 20))
    assert step_of_callers(scheduler) == [("alice", 1)] * 3 + [("bob", 13)]
    assert step_of_callers(scheduler) == [("alice", 1)] * 3 + [("bob", 7)]
    assert step_of_callers(scheduler) == [("alice", 1)] * 3 + [("alice", 12), ("bob", 1)]


def test_who_has_waited_long_enough_is_as_urgent_as_the_crowd() -> None:
    """A crowd of the highest priority whose sequences never end holds all places."""
    now = [0.0]
    queue = FairQueue(aging_s=10, clock=lambda: now[0])
    scheduler = Scheduler(
        BlockAllocator(400, 16, False), NoSlots(), max_running=4, max_batch_tokens=16, waiting=queue
    )
    fill(scheduler, 6, priority=10)
    step(scheduler)
    light = sequence("light", 5)
    light.arrived = 0.0
    scheduler.add(light)
    now[0] = 99.0
    assert step(scheduler) == [("heavy", 1)] * 4
    now[0] = 100.0
    assert step(scheduler) == [("heavy", 1)] * 3 + [("light", 5)]


def test_a_crowd_does_not_make_way_for_ever() -> None:
    """Others that never stop coming go first, but not for ever."""
    now = [0.0]
    queue = FairQueue(aging_s=10, clock=lambda: now[0])
    scheduler = Scheduler(
        BlockAllocator(400, 16, False), NoSlots(), max_running=8, max_batch_tokens=16, waiting=queue
    )
    fill(scheduler, 6)
    step(scheduler)
    old = sequence("heavy", 4)
    old.arrived = 0.0
    scheduler.add(old)
    started = None
    for second in range(60):
        now[0] = float(second)
        other = sequence("light", 4, priority=1)
        other.arrived = now[0]
        scheduler.add(other)
        step(scheduler)
        for seq in [s for s in scheduler.running if s.tenant == "light" and s.num_generated]:
            scheduler.finish(seq)
        if started is None and old in scheduler.running:
            started = second
    assert started == 10
