"""An adapter that no step can run with: it goes out of service, and its other versions serve on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_runtime import (
    AdapterCapacityError,
    AdapterInfo,
    AdapterPolicy,
    AdapterState,
    AdapterUnavailableError,
    Engine,
    EngineObserver,
    Request,
    SamplingParams,
    WeightedAdapter,
)
from lora_runtime.adapters.store.version import AdapterVersion
from lora_runtime.backends.cpp import runner as cpp_runner
from lora_runtime.kernels import lora

from ...support.engines import at_once, given_back, runner_of, slow_down
from ...support.faults import Raise, break_version, exception, panic
from ...support.store import current_version

SOME = SamplingParams(max_new_tokens=12, temperature=1.0, seed=3, ignore_eos=True)
LONG = SamplingParams(max_new_tokens=400, ignore_eos=True)
BROKEN = r"adapter 'a1' is out of service, load it again: steps with it fail: \w+Error: injected"


def request(adapter_id: str = "", sampling: SamplingParams = SOME) -> Request:
    return Request(prompt="some text", adapter_id=adapter_id, sampling=sampling)


def break_torch_kernel(
    engine: Engine, patch: pytest.MonkeyPatch, version: AdapterVersion, raises: Raise
) -> None:
    weights: Any = version.weights
    own = {delta.a.data_ptr() for delta in weights.deltas.values()}

    def add_lora(y: Any, x: Any, segments: Any) -> None:
        if any(segment.a.data_ptr() in own for segment in segments):
            raises()
        lora.add_lora_reference(y, x, segments)

    context = engine.base.frozen.context
    patch.setattr(context, "kernels", replace(context.kernels, lora=add_lora))


def break_cpp_kernel(
    engine: Engine, patch: pytest.MonkeyPatch, version: AdapterVersion, raises: Raise
) -> None:
    segments = cpp_runner._segments

    def call(batch: Any) -> Any:
        if any(s.adapter is version.weights for s in batch.segments):
            raises()
        return segments(batch)

    patch.setattr(cpp_runner, "_segments", call)


@pytest.mark.parametrize("raises", [exception, panic])
@pytest.mark.parametrize(
    ("kernels", "break_kernel"), [("auto", break_cpp_kernel), ("torch", break_torch_kernel)]
)
def test_a_kernel_that_raises_for_one_adapter(
    make_engine: Callable[..., Engine],
    tiny_adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    kernels: str,
    break_kernel: Callable[..., None],
    raises: Raise,
) -> None:
    engine = make_engine(kernels=kernels)
    for name in ("a1", "a2"):
        engine.load_adapter(tiny_adapters[name], name)
    innocents = [request("a2"), request(), request("a2", replace(SOME, seed=4))]
    both = (WeightedAdapter("a1", 0.5), WeightedAdapter("a2", 0.5))
    composed = Request(prompt="some text", adapters=both, sampling=SOME)

    def run() -> tuple[list[Any], list[Any]]:
        with at_once(engine):
            first = [engine.submit(request("a1")) for _ in range(3)]
            others = [engine.submit(r) for r in innocents]
            return [*first, engine.submit(composed)], others

    expected = [h.result().choices[0].token_ids for h in run()[1]]
    break_kernel(engine, monkeypatch, current_version(engine, "a1"), raises)
    guilty, others = run()
    for handle in guilty:
        with pytest.raises(AdapterUnavailableError, match=BROKEN) as refused:
            handle.result()
        assert refused.value.adapter_id == "a1"
    assert [h.result().choices[0].token_ids for h in others] == expected
    assert engine.healthy
    assert engine.get_adapter("a1").state is AdapterState.OUT_OF_SERVICE
    assert engine.get_adapter("a2").state is AdapterState.DEVICE
    assert given_back(engine)


class Heard(EngineObserver):
    def __init__(self) -> None:
        self.out: list[AdapterInfo] = []
        self.evicted: list[str] = []

    def on_adapter_out_of_service(self, info: AdapterInfo) -> None:
        self.out.append(info)

    def on_adapter_evicted(self, info: AdapterInfo, reason: str) -> None:
        self.evicted.append(reason)


@pytest.fixture
def served(make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]) -> Engine:
    engine = make_engine(max_running=2)
    engine.load_adapter(tiny_adapters["a1"], "a1")
    return engine


def test_out_until_it_is_loaded_again(
    served: Engine, tiny_adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()
    served.add_observer(heard)
    expected = served.generate(request("a1")).choices[0].token_ids
    base = served.submit(request("", LONG))
    version = current_version(served, "a1")
    break_version(served, monkeypatch, version)
    with at_once(served):  # one of them has no place to run
        handles = [served.submit(request("a1")) for _ in range(3)]
    for handle in handles:
        with pytest.raises(AdapterUnavailableError, match=BROKEN):
            handle.result()
    with pytest.raises(AdapterUnavailableError, match=BROKEN):
        served.submit(request("a1"))
    info = served.get_adapter("a1")
    assert info.state is AdapterState.OUT_OF_SERVICE
    assert info.error == "steps with it fail: RuntimeError: injected"
    assert [(i.adapter_id, i.version, i.error) for i in heard.out] == [
        ("a1", info.version, info.error)
    ]
    stats = served.stats()
    assert (stats.out_of_service_adapters, stats.adapters, stats.host_adapters) == (1, 0, 0)
    assert heard.evicted == ["out_of_service"]

    monkeypatch.undo()
    with pytest.raises(AdapterUnavailableError, match=BROKEN):
        served.submit(request("a1"))  # nothing but a load brings it back
    again = served.load_adapter(tiny_adapters["a1"], "a1")
    assert (again.version, again.state, again.error) == (info.version, AdapterState.DEVICE, "")
    assert served.generate(request("a1")).choices[0].token_ids == expected
    assert served.stats().out_of_service_adapters == 0
    assert len(base.result().choices[0].token_ids) == 400
    assert given_back(served)


def test_a_refused_load_does_not_bring_it_back(
    served: Engine, tiny_adapters: dict[str, Path]
) -> None:
    served._store.take_out(current_version(served, "a1"), "a reason")
    pinned = AdapterPolicy(pinned=True)
    with pytest.raises(AdapterCapacityError):
        served.load_adapter(tiny_adapters["a1"], "other", policy=pinned, pin_share=0)
    assert served.get_adapter("a1").state is AdapterState.OUT_OF_SERVICE
    assert served.stats().host_adapters == 0


def test_a_request_that_is_on_its_way(served: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with at_once(served):
        handle = served.submit(request("a1"))
        served._store.take_out(current_version(served, "a1"), "a reason")
    with pytest.raises(AdapterUnavailableError, match=r"'a1' is out of service, .*: a reason"):
        handle.result()
    assert given_back(served)


def test_an_older_version_serves_again(
    served: Engine, tiny_adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = served.generate(request("a1"))
    served.load_adapter(tiny_adapters["a3"], "a1")
    break_version(served, monkeypatch, current_version(served, "a1"))
    with pytest.raises(AdapterUnavailableError):
        served.generate(request("a1"))
    assert served.rollback_adapter("a1").version == old.adapter_version
    assert served.generate(request("a1")).choices[0].token_ids == old.choices[0].token_ids
    with pytest.raises(AdapterUnavailableError, match=BROKEN):
        served.rollback_adapter("a1")  # to the one that is out of service


def test_a_canary_does_not_take_its_id_out(
    served: Engine, tiny_adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = served.get_adapter("a1").version
    served.load_adapter(tiny_adapters["a3"], "a1", canary_weight=0.9)
    canary = served._store._registry.aliases["a1"].canary
    assert canary is not None
    break_version(served, monkeypatch, canary)
    results = []
    for _ in range(30):
        try:
            results.append(served.generate(request("a1")).adapter_version)
        except AdapterUnavailableError:
            results.append("")
    assert results.count("") == 1
    assert set(results) == {"", first}
    info = served.get_adapter("a1")
    assert info.state is AdapterState.DEVICE
    assert info.canary is not None
    assert "injected" in info.canary.error
    with pytest.raises(AdapterUnavailableError, match=BROKEN):
        served.set_canary("a1", 1)
    assert served.set_canary("a1", 0).canary is None


def test_a_pinned_one_comes_back(
    served: Engine, tiny_adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    served.set_policy("a1", AdapterPolicy(pinned=True))
    break_version(served, monkeypatch, current_version(served, "a1"))
    with pytest.raises(AdapterUnavailableError):
        served.generate(request("a1"))
    assert served.stats().adapters == 0
    served.set_policy("a1", AdapterPolicy(pinned=True))
    assert served.get_adapter("a1").state is AdapterState.OUT_OF_SERVICE
    monkeypatch.undo()
    served.load_adapter(tiny_adapters["a1"], "a1")
    assert served.generate(request("a1")).text


def test_one_that_fails_in_prefill_alone(served: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    runner: Any = runner_of(served)
    forward = runner.forward

    def call(batch: Any) -> Any:
        if any(s.end - s.start > 1 for s in batch.segments):
            exception()
        return forward(batch)

    monkeypatch.setattr(runner, "forward", call)
    with pytest.raises(AdapterUnavailableError, match=BROKEN):
        served.generate(request("a1"))


def test_a_prompt_does_not_take_its_adapter_out(
    served: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_down(served)
    running = served.submit(request("a1", LONG))
    runner: Any = runner_of(served)
    forward = runner.forward

    def call(batch: Any) -> Any:
        if 77 in batch.tokens[: batch.query_start[-1]] and len(batch.tokens) > 3:
            exception()
        return forward(batch)

    monkeypatch.setattr(runner, "forward", call)
    for _ in range(3):
        handle = served.submit(Request(token_ids=(77,) * 9, adapter_id="a1", sampling=SOME))
        with pytest.raises(Exception, match="the request cannot be computed: RuntimeError"):
            handle.result()
    assert served.get_adapter("a1").state is AdapterState.DEVICE
    running.cancel()
    assert given_back(served)
