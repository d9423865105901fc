"""What observers hear of steps, and what runs by adapter."""

from __future__ import annotations

import pytest

from lora_runtime import (
    AdapterUse,
    Engine,
    EngineObserver,
    Request,
    RequestRecord,
    SamplingParams,
    StepStats,
    WeightedAdapter,
)

from ...support.engines import HangingSteps
from ...support.processes import wait_until

SHORT = SamplingParams(max_new_tokens=5, ignore_eos=True)


class Ear(EngineObserver):
    def __init__(self, engine: Engine) -> None:
        self.steps: list[StepStats] = []
        self.records: list[RequestRecord] = []
        engine.add_observer(self)

    def on_step(self, stats: StepStats) -> None:
        self.steps.append(stats)

    def on_request_finished(self, record: RequestRecord) -> None:
        self.records.append(record)

    @property
    def first_tokens(self) -> list[tuple[tuple[AdapterUse, ...], float]]:
        return [first for stats in self.steps for first in stats.first_tokens]


@pytest.mark.parametrize("tokens", [1, 5])
def test_a_first_token_is_told_once_with_its_adapters(engine: Engine, tokens: int) -> None:
    ear = Ear(engine)
    sampling = SamplingParams(max_new_tokens=tokens, ignore_eos=True, n=2, temperature=1.0)
    engine.generate(Request(prompt="hi", adapter_id="a1", sampling=sampling))
    engine.generate(Request(prompt="hi", sampling=sampling))
    both = (WeightedAdapter("a1", 0.5), WeightedAdapter("a2", 0.5))
    engine.generate(Request(prompt="hi", adapters=both, sampling=sampling))
    engine.shutdown()  # the last step is reported after its requests
    uses = [tuple(use.adapter_id for use in uses) for uses, _ in ear.first_tokens]
    assert uses == [("a1",), (), ("a1", "a2")]
    assert [s for _, s in ear.first_tokens] == pytest.approx([r.ttft_s for r in ear.records])


def test_tokens_of_prompts_and_of_answers_are_told_apart(engine: Engine) -> None:
    ear = Ear(engine)
    engine.generate(
        Request(token_ids=tuple(n % 250 for n in range(300)), sampling=SHORT)
    )  # in chunks
    engine.generate(Request(token_ids=(5, 6, 7), adapter_id="a1", sampling=SHORT))
    engine.shutdown()
    assert sum(stats.generated for stats in ear.steps) == 10
    assert sum(stats.prefill_tokens for stats in ear.steps) == 303
    assert sum(stats.tokens for stats in ear.steps) == 303 + 2 * 4


def test_what_runs_is_told_by_adapter(engine: Engine) -> None:
    hanging = HangingSteps(engine)
    assert engine.running_adapters() == {}
    first = engine.submit(Request(prompt="hi", sampling=SHORT))
    assert hanging.reached.wait(10)
    assert engine.running_adapters() == {"": 1}  # while a step hangs, too
    both = (WeightedAdapter("a1", 0.5), WeightedAdapter("a2", 0.5))
    others = [
        engine.submit(Request(prompt="hi", sampling=SHORT, adapters=both)),
        engine.submit(Request(prompt="hi", sampling=SHORT, adapter_id="a1")),
    ]
    seen: list[dict[str, int]] = []

    class Look(EngineObserver):
        def on_step(self, stats: StepStats) -> None:
            seen.append(engine.running_adapters())

    engine.add_observer(Look())
    hanging.open.set()
    for handle in (first, *others):
        handle.result()
    assert {"": 1, "a1": 2, "a2": 1} in seen
    wait_until(lambda: engine.running_adapters() == {})
