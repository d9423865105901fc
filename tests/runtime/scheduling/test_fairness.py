"""The queue's order, and that a flood of one adapter's requests does not hold up another's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lora_runtime import AdapterLimitError, AdapterPolicy, Engine, Request, SamplingParams
from lora_runtime.requests.sequence import Sequence
from lora_runtime.scheduling.fairness import FairQueue
from lora_runtime.scheduling.limits import Limits, TokenBucket

from ...support.engines import (
    counted_by_limits,
    is_unfinished,
    running_of,
    slow_down,
    wait_until_idle,
)

SHORT = SamplingParams(max_new_tokens=4, ignore_eos=True)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def sequence(tenant: str, arrived: float = 0.0, priority: int = 0) -> Sequence:
    seq = Sequence(None, 0, (1,), SamplingParams(), None, 9, tenant=tenant, priority=priority)  # type: ignore[arg-type]
    seq.kv_version, seq.arrived = tenant, arrived
    return seq


def serve_all(queue: FairQueue, cost: float = 1.0) -> list[str]:
    """Takes out one after the other, each served `cost`."""
    order = []
    while queue:
        seq = queue.heads()[0]
        queue.remove(seq)
        queue.charge(seq.tenant, cost)
        order.append(seq.tenant)
    return order


def test_the_least_served_goes_first() -> None:
    queue = FairQueue()
    for i in range(6):
        queue.add(sequence("heavy", arrived=i))
    queue.add(sequence("light", arrived=10))
    queue.add(sequence("light", arrived=11))
    assert serve_all(queue) == ["heavy", "light", "heavy", "light", *["heavy"] * 4]
    assert len(queue) == 0


def test_shares_follow_the_weights() -> None:
    queue = FairQueue({"a": 3.0, "b": 1.0}.__getitem__)
    for i in range(12):
        queue.add(sequence("a", i))
        queue.add(sequence("b", i))
    assert serve_all(queue)[:8].count("a") == 6


def test_idleness_earns_no_credit() -> None:
    queue = FairQueue()
    queue.charge("busy", 1000)
    queue.add(sequence("busy"))
    queue.add(sequence("new"))
    assert queue.served("new") == queue.served("busy") == 1000


def test_priorities_and_their_aging() -> None:
    clock = Clock()
    queue = FairQueue(aging_s=10, clock=clock)
    queue.add(sequence("low", arrived=0, priority=0))
    queue.add(sequence("high", arrived=0, priority=2))
    assert [s.tenant for s in queue.heads()] == ["high", "low"]
    clock.now = 20
    queue.charge("high", 1)
    assert [s.tenant for s in queue.heads()] == ["low", "high"]  # as urgent by now, and less served
    clock.now = 1000
    queue.charge("low", 5)
    assert [s.tenant for s in queue.heads()] == [
        "high",
        "low",
    ]  # waiting alone never beats fairness


def test_membership_and_removal() -> None:
    queue, seq, other = FairQueue(), sequence("a"), sequence("a")
    queue.add(seq)
    queue.add_first(other)
    assert seq in queue
    assert list(queue) == [other, seq]
    queue.remove(other)
    assert queue.heads() == [seq]
    queue.remove(seq)
    assert seq not in queue
    queue.forget("a")
    assert queue.served("a") == queue.served("never seen")


def test_a_light_adapter_overtakes_a_flood(engine: Engine) -> None:
    slow_down(engine, 0.002)
    engine.config  # noqa: B018
    flood = [
        engine.submit(Request(prompt="hi", adapter_id="a0", sampling=SHORT)) for _ in range(120)
    ]
    light = engine.submit(Request(prompt="hi", adapter_id="a1", sampling=SHORT))
    base = engine.submit(Request(prompt="hi", sampling=SHORT))
    for handle in (light, base):
        handle.result()
    unfinished = sum(is_unfinished(h) for h in flood)
    assert unfinished > 60
    for handle in flood:
        handle.result()


def test_token_bucket() -> None:
    bucket = TokenBucket(60, now=0)
    assert bucket.wait_s(0) == 0
    bucket.charge(70, 0)
    assert bucket.wait_s(0) == pytest.approx(11)
    assert bucket.wait_s(11.5) == 0
    bucket.charge(0, 1000)
    assert bucket._level == 60


def test_limits_count_and_forget() -> None:
    clock, policies = (
        Clock(),
        {"a": AdapterPolicy(max_running=2, max_waiting=3), "b": AdapterPolicy()},
    )
    limits = Limits(policies.__getitem__, 8, 16, clock)
    limits.enter(["a"], 5, 1)
    with pytest.raises(AdapterLimitError, match="3 waiting") as caught:
        limits.enter(["b", "a"], 1, 1)
    assert caught.value.adapter_id == "a"
    assert limits._unfinished == {"a": 5}  # nothing of a refused request is counted
    limits.leave(["a"], 5)
    limits.enter(["a"], 1, 1)
    policies["b"] = AdapterPolicy(tokens_per_minute=10)
    limits.enter(["b"], 1, 8)
    limits.charge(["b"] * 4)
    with pytest.raises(AdapterLimitError, match="10 tokens per minute") as caught:
        limits.enter(["b"], 1, 1)
    assert caught.value.retry_after_s == pytest.approx(18)
    clock.now = 18.1
    limits.enter(["b"], 1, 1)


def test_an_adapters_own_limits(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]
) -> None:
    engine = make_engine()
    slow_down(engine)
    for name in ("a0", "a1"):
        engine.load_adapter(
            tiny_adapters[name], name, policy=AdapterPolicy(max_running=2, max_waiting=4)
        )
    handles = [
        engine.submit(Request(prompt="hi", adapter_id="a0", sampling=SHORT)) for _ in range(6)
    ]
    with pytest.raises(AdapterLimitError, match="a0"):
        engine.submit(Request(prompt="hi", adapter_id="a0", sampling=SHORT))
    handles.append(engine.submit(Request(prompt="hi", adapter_id="a1", sampling=SHORT)))
    most = 0
    for event in handles[0]:
        most = max(most, running_of(engine, "a0"))
        assert event.index == 0
    for handle in handles[1:]:
        handle.result()
    assert most == 2
    engine.set_policy("*", AdapterPolicy(tokens_per_minute=5))
    engine.generate(Request(prompt="hi there", sampling=SHORT))
    with pytest.raises(AdapterLimitError, match="tokens per minute"):
        engine.generate(Request(prompt="hi there", sampling=SHORT))
    engine.generate(
        Request(prompt="hi", adapter_id="a0", sampling=SHORT)
    )  # has a policy of its own
    assert wait_until_idle(engine).leases == 0
    assert not counted_by_limits(engine)
