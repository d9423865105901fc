"""A step that raises: the request at fault ends, and nobody else notices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lora_runtime import (
    Choice,
    Engine,
    EngineConfig,
    EngineFailedError,
    Request,
    RequestHandle,
    SamplingParams,
)

from ...support.engines import at_once, given_back
from ...support.faults import (
    CULPRIT,
    STEP_FAULTS,
    TEMPERATURE,
    Fault,
    Raise,
    exception,
    in_forward,
    panic,
    rust_panic,
)

SAMPLED = SamplingParams(
    max_new_tokens=24,
    temperature=1.0,
    seed=7,
    repetition_penalty=1.3,
    frequency_penalty=0.2,
    logprobs=2,
    ignore_eos=True,
)
GREEDY = SamplingParams(max_new_tokens=24, ignore_eos=True)
INNOCENTS = [
    Request(prompt="the same adapter", adapter_id="a1", sampling=SAMPLED),
    Request(prompt="another one", adapter_id="a2", sampling=SAMPLED),
    Request(prompt="none at all", sampling=GREEDY),
    Request(prompt="two choices", sampling=replace(SAMPLED, n=2)),
]
GUILTY = Request(
    prompt="it is me",
    adapter_id="a1",
    sampling=replace(SAMPLED, temperature=TEMPERATURE),
    request_id=CULPRIT,
)


@pytest.fixture(scope="module")
def engine(tiny_base: Path, tiny_adapters: dict[str, Path]) -> Iterator[Engine]:
    """One for all faults: it must be as good as new after each."""
    config = EngineConfig(dtype="float32", kv_cache_bytes=8 << 20, max_running=16)
    with Engine(tiny_base, config) as engine:
        for name in ("a1", "a2"):
            engine.load_adapter(tiny_adapters[name], name)
        yield engine


@pytest.fixture(scope="module")
def expected(engine: Engine) -> list[list[tuple[object, ...]]]:
    return [outcome(handle) for handle in submitted(engine, [*INNOCENTS, GUILTY])][:-1]


def submitted(engine: Engine, requests: list[Request]) -> list[RequestHandle]:
    with at_once(engine):
        return [engine.submit(request) for request in requests]


def outcome(handle: RequestHandle) -> list[tuple[object, ...]]:
    return [essence(choice) for choice in handle.result().choices]


def essence(choice: Choice) -> tuple[object, ...]:
    return choice.token_ids, choice.text, choice.logprobs, choice.finish_reason


def beside(engine: Engine, install: Callable[[], None]) -> tuple[list[object], RequestHandle]:
    """Run the innocents, and the culprit with a fault that is there before the first step."""
    with at_once(engine):
        handles = [engine.submit(request) for request in INNOCENTS]
        culprit = engine.submit(GUILTY)
        install()
    return [outcome(handle) for handle in handles], culprit


@pytest.mark.parametrize("raises", [exception, panic])
@pytest.mark.parametrize("fault", STEP_FAULTS)
def test_one_request_is_at_fault(
    engine: Engine,
    expected: list[object],
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    raises: Raise,
) -> None:
    def install() -> None:
        fault(engine, engine._inbox.untaken()[-1], monkeypatch, raises)

    outcomes, culprit = beside(engine, install)
    with pytest.raises(EngineFailedError, match="injected"):
        culprit.result()
    assert outcomes == expected
    assert engine.healthy
    assert engine.stats().out_of_service_adapters == 0
    monkeypatch.undo()
    assert given_back(engine)
    assert [outcome(h) for h in submitted(engine, INNOCENTS)] == expected
