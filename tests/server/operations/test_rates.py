"""Speed of the last seconds, by a clock that the test moves."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lora_runtime import AdapterUse, StepStats
from server.operations.rates import Rates, Speed


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def everything(adapter_id: str) -> bool:
    return True


def step(
    generated: int = 0, prefill: int = 0, *first_tokens: float, adapters: Sequence[str] = ()
) -> StepStats:
    uses = tuple(AdapterUse(adapter_id, "v") for adapter_id in adapters)
    return StepStats(
        duration_s=0.01,
        tokens=generated + prefill,
        sequences=1,
        distinct_adapters=0,
        running=1,
        waiting=0,
        kv_blocks_used=0,
        kv_blocks_total=1,
        generated=generated,
        prefill_tokens=prefill,
        first_tokens=tuple((uses, seconds) for seconds in first_tokens),
    )


def test_nothing_has_run(clock: Clock) -> None:
    assert Rates(clock).speed(everything) == Speed(0, 0, 0, 0, 0)


def test_tokens_are_those_of_the_last_seconds(clock: Clock) -> None:
    rates = Rates(clock)
    clock.now = 200.0
    for second in range(30):
        clock.now = 200.0 + second
        rates.on_step(step(generated=3, prefill=10))
        rates.on_step(step(generated=4))
    clock.now = 230.0  # a second without a step
    speed = rates.speed(everything)
    assert speed.generated_tokens_per_s == pytest.approx(7)
    assert speed.prompt_tokens_per_s == pytest.approx(10)
    clock.now = 234.5
    assert rates.speed(everything).generated_tokens_per_s == pytest.approx(5 * 7 / 9.5)
    clock.now = 300.0
    assert rates.speed(everything) == Speed(0, 0, 0, 0, 0)


def test_a_server_that_has_just_begun_is_as_fast_as_it_is(clock: Clock) -> None:
    rates = Rates(clock)
    rates.on_step(step(generated=8))
    assert rates.speed(everything).generated_tokens_per_s == pytest.approx(8)
    clock.now += 2
    rates.on_step(step(generated=8))
    assert rates.speed(everything).generated_tokens_per_s == pytest.approx(8)


def test_quantiles_are_those_of_the_last_minute(clock: Clock) -> None:
    rates = Rates(clock)
    rates.on_step(step(1, 0, 50.0))
    clock.now += 61
    rates.on_step(step(100, 0, *(n / 100 for n in range(1, 101))))
    speed = rates.speed(everything)
    assert (speed.ttft_p50_s, speed.ttft_p99_s, speed.ttft_requests) == (0.5, 0.99, 100)
    clock.now += 60.5
    rates.on_step(step(1, 0, 0.25))
    speed = rates.speed(everything)
    assert (speed.ttft_p50_s, speed.ttft_p99_s, speed.ttft_requests) == (0.25, 0.25, 1)


def test_what_is_kept_is_bounded(clock: Clock) -> None:
    rates = Rates(clock)
    for _ in range(10):
        rates.on_step(step(1000, 0, *[0.1] * 1000))
    assert rates.speed(everything).ttft_requests == 4096


def test_first_tokens_are_those_of_adapters_that_may_be_seen(clock: Clock) -> None:
    rates = Rates(clock)
    rates.on_step(step(1, 0, 0.1, adapters=["a"]))
    rates.on_step(step(1, 0, 0.2))
    rates.on_step(step(1, 0, 0.3, adapters=["a", "b"]))
    asked: list[str] = []

    def only_a(adapter_id: str) -> bool:
        asked.append(adapter_id)
        return adapter_id == "a"

    speed = rates.speed(only_a)
    assert (speed.ttft_p50_s, speed.ttft_p99_s, speed.ttft_requests) == (0.1, 0.1, 1)
    assert asked == ["a", "", "b"]  # once each: a scope may be long
    assert rates.speed(lambda adapter_id: not adapter_id).ttft_p50_s == 0.2
    assert rates.speed(everything).ttft_requests == 3
