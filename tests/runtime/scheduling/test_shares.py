"""Shares of the queue: no adapter and no caller fills it for the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lora_runtime import (
    AdapterLimitError,
    AdapterPolicy,
    CallerLimitError,
    Engine,
    InvalidRequestError,
    Request,
    SamplingParams,
)
from lora_runtime.requests.sequence import Sequence
from lora_runtime.scheduling.fairness import FairQueue
from lora_runtime.scheduling.limits import Limits

from ...support.engines import HangingSteps, counted_by_limits, wait_until_idle

SHORT = SamplingParams(max_new_tokens=2, ignore_eos=True)
THREE = SamplingParams(max_new_tokens=2, ignore_eos=True, n=3)


def limits_of(**policies: AdapterPolicy) -> Limits:
    """Of an engine that runs 4 and lets 8 wait."""
    return Limits(lambda adapter_id: policies.get(adapter_id, AdapterPolicy()), 4, 8)


def fill(limits: Limits, adapter_id: str, caller: str = "", most: int = 0) -> int:
    """Sequences that it can hold."""
    for count in range(100):
        try:
            limits.enter([adapter_id], 1, 0, caller, most)
        except (AdapterLimitError, CallerLimitError):
            return count
    raise AssertionError("no limit")


@pytest.mark.parametrize("name", ["", "a"])
def test_an_adapter_holds_half_of_what_may_wait(name: str) -> None:
    limits = limits_of()
    assert fill(limits, name) == 4 + 4
    assert fill(limits, "other") == 4 + 4
    with pytest.raises(AdapterLimitError, match="4 waiting sequences") as caught:
        limits.check([name], 1)
    assert caught.value.adapter_id == name


def test_a_policy_says_more_or_less() -> None:
    limits = limits_of(
        more=AdapterPolicy(max_waiting=50), less=AdapterPolicy(max_running=1, max_waiting=1)
    )
    assert fill(limits, "more") == 4 + 50
    assert fill(limits, "less") == 1 + 1


def test_choices_count_one_by_one() -> None:
    limits = limits_of()
    limits.enter(["a"], 7, 0, "alice", 50)
    with pytest.raises(AdapterLimitError):
        limits.enter(["a"], 2, 0, "bob")
    limits.enter(["a"], 1, 0, "bob")


def test_a_caller_holds_half_over_all_adapters() -> None:
    limits = limits_of()
    for i in range(8):
        limits.enter([f"a{i}"], 1, 0, "alice")
    with pytest.raises(
        CallerLimitError, match="'alice' has reached its limit of 4 waiting sequences"
    ) as caught:
        limits.check(["b"], 1, "alice")
    assert caught.value.caller == "alice"
    assert caught.value.retry_after_s > 0
    limits.check(["b"], 4, "bob")
    limits.leave(["a0"], 1, "alice")
    limits.enter(["b"], 1, 0, "alice")


def test_a_caller_leaves_room_to_others_of_its_adapter() -> None:
    limits = limits_of()
    assert fill(limits, "a", "alice") == 4 + 2
    assert fill(limits, "a", "bob") == 2


def test_a_callers_own_number() -> None:
    assert fill(limits_of(a=AdapterPolicy(max_waiting=99)), "a", "alice", most=30) == 4 + 30
    assert fill(limits_of(), "a", "alice", most=1) == 4 + 1


def test_nothing_is_kept_of_who_has_left() -> None:
    limits = limits_of()
    limits.enter(["a", "b"], 2, 0, "alice")
    limits.leave(["a", "b"], 2, "alice")
    assert not any((limits._unfinished, limits._by_caller, limits._by_both))


def test_one_adapters_flood_leaves_the_others_their_places(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]
) -> None:
    engine = make_engine(max_running=4, max_waiting=8)
    for name in ("a0", "a1"):
        engine.load_adapter(tiny_adapters[name], name)
    steps = HangingSteps(engine)
    handles = [engine.submit(Request(prompt="hi", adapter_id="a0", sampling=THREE))]
    assert steps.reached.wait(20)
    handles.append(engine.submit(Request(prompt="hi", adapter_id="a0", sampling=THREE)))
    with pytest.raises(AdapterLimitError):
        engine.submit(Request(prompt="hi", adapter_id="a0", sampling=THREE))
    handles.append(engine.submit(Request(prompt="hi", adapter_id="a1", sampling=THREE)))
    handles.append(engine.submit(Request(prompt="hi", sampling=SHORT)))
    steps.open.set()
    for handle in handles:
        handle.result()
    wait_until_idle(engine)
    assert not counted_by_limits(engine)


def test_one_callers_flood_leaves_the_others_their_places(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]
) -> None:
    engine = make_engine(max_running=4, max_waiting=8)
    engine.load_adapter(tiny_adapters["a0"], "a0")
    steps = HangingSteps(engine)
    alices = [
        Request(prompt="hi", adapter_id=name, sampling=SHORT, caller="alice") for name in ("", "a0")
    ]
    handles = [engine.submit(alices[i % 2]) for i in range(8)]
    with pytest.raises(CallerLimitError, match="alice"):
        engine.submit(alices[0])
    handles += [engine.submit(Request(prompt="hi", sampling=SHORT, caller="bob")) for _ in range(4)]
    steps.open.set()
    for handle in handles:
        handle.result()
    wait_until_idle(engine)
    assert not counted_by_limits(engine)


def sequence(caller: str, arrived: float, priority: int = 0) -> Sequence:
    seq = Sequence(None, 0, (1,), SamplingParams(), None, 9, caller=caller, priority=priority)  # type: ignore[arg-type]
    seq.arrived = arrived
    return seq


def serve_all(queue: FairQueue) -> list[str]:
    order = []
    while queue:
        seq = queue.heads()[0]
        queue.remove(seq)
        queue.charge(seq.tenant, 1, seq.caller)
        order.append(seq.caller)
    return order


def test_the_callers_of_an_adapter_take_turns() -> None:
    queue = FairQueue(clock=lambda: 0.0)
    for i in range(4):
        queue.add(sequence("alice", i))
    queue.add(sequence("bob", 10))
    queue.add(sequence("bob", 11))
    assert serve_all(queue) == ["alice", "bob", "alice", "bob", "alice", "alice"]


def test_a_callers_idleness_earns_no_credit() -> None:
    queue = FairQueue(clock=lambda: 0.0)
    queue.charge("", 100, "alice")
    for i in range(3):
        queue.add(sequence("alice", i))
    for i in range(3):
        queue.add(sequence("bob", 10 + i))
    assert serve_all(queue) == ["alice", "bob", "alice", "bob", "alice", "bob"]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"caller": "x" * 257}, "caller"),
        ({"cache_salt": "x" * 257}, "cache_salt"),
        ({"caller_max_waiting": -1}, "caller_max_waiting"),
    ],
    ids=["caller", "salt", "waiting"],
)
def test_bounds_of_the_fields(fields: dict[str, object], name: str) -> None:
    with pytest.raises(InvalidRequestError, match=name):
        Request(prompt="hi", **fields).validate()  # type: ignore[arg-type]
