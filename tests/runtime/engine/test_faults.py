"""A step that raises: the request at fault ends, and nobody else notices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

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

from ...support.engines import at_once, given_back, runner_of
from ...support.faults import (
    CULPRIT,
    STEP_FAULTS,
    TEMPERATURE,
    Fault,
    Raise,
    after_forward,
    after_plan,
    exception,
    in_decode,
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


def test_a_rust_panic_while_text_is_decoded(
    engine: Engine, expected: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def install() -> None:
        in_decode(engine, engine._inbox.untaken()[-1], monkeypatch, rust_panic)

    outcomes, culprit = beside(engine, install)
    with pytest.raises(EngineFailedError, match=r"cannot be decoded .*: PanicException: index out"):
        culprit.result()
    assert outcomes == expected
    assert engine.healthy
    assert given_back(engine)


def test_a_step_that_raises_once_hurts_nobody(
    engine: Engine, expected: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where memory was short for a moment: the same step by halves has room."""
    raised: list[bool] = []

    def once() -> None:
        if not raised:
            raised.append(True)
            exception()

    def install() -> None:
        in_forward(engine, engine._inbox.untaken()[-1], monkeypatch, once)  # type: ignore[arg-type]

    outcomes, culprit = beside(engine, install)
    assert len(culprit.result().choices[0].token_ids) == SAMPLED.max_new_tokens
    assert outcomes == expected
    assert raised


def test_many_at_fault_cost_few_steps(
    engine: Engine, expected: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the rows of a step each is computed about as often as they can be halved."""
    runner: Any = runner_of(engine)
    forward, steps = runner.forward, []

    def call(batch: Any) -> Any:
        steps.append(len(batch.tokens))
        if any(s.handle.request_id.startswith("bad") for s in batch.sampling):
            exception()
        return forward(batch)

    with at_once(engine):
        handles = [engine.submit(request) for request in INNOCENTS]
        bad = [engine.submit(replace(GUILTY, request_id=f"bad{i}")) for i in range(11)]
        monkeypatch.setattr(runner, "forward", call)
    for handle in bad:
        with pytest.raises(EngineFailedError):
            handle.result()
    assert [outcome(handle) for handle in handles] == expected
    first = steps[: -SAMPLED.max_new_tokens + 1]  # those of the turn in which they were at fault
    assert sum(first) < 8 * steps[0]
    assert given_back(engine)


def test_a_chunk_that_raises_in_the_middle_of_a_prompt(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(max_batch_tokens=48)
    other = Request(prompt="none at all", sampling=GREEDY)
    alone = outcome(engine.submit(other))
    runner: Any = runner_of(engine)
    forward = runner.forward

    def call(batch: Any) -> Any:
        if 201 in batch.tokens:
            exception()
        return forward(batch)

    monkeypatch.setattr(runner, "forward", call)
    with at_once(engine):
        innocent = engine.submit(other)
        guilty = engine.submit(Request(token_ids=(5,) * 100 + (201,) * 20, sampling=GREEDY))
    with pytest.raises(EngineFailedError, match="injected"):
        guilty.result()
    assert outcome(innocent) == alone
    assert given_back(engine)


@pytest.mark.parametrize("fault", [after_plan, after_forward])
def test_a_row_alone_is_tried_again_as_it_was(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """Its batch is not advanced twice."""
    alone = outcome(engine.submit(GUILTY))
    raised: list[bool] = []

    def once() -> None:
        if not raised:
            raised.append(True)
            exception()

    with at_once(engine):
        handle = engine.submit(GUILTY)
        fault(engine, engine._inbox.untaken()[-1], monkeypatch, once)  # type: ignore[arg-type]
    assert outcome(handle) == alone
    assert raised
    assert given_back(engine)
