"""What raises around a step: observers, what gives back, submission, loads, the store's calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_runtime import (
    AdapterError,
    AdapterUnavailableError,
    ChatMessage,
    Engine,
    EngineConfig,
    EngineFailedError,
    EngineObserver,
    InvalidRequestError,
    Registration,
    Request,
    RequestHandle,
    SamplingParams,
)
from lora_runtime.adapters.peft import loader

from ...support.engines import at_once, given_back, runner_of
from ...support.faults import Raise, exception, panic, rust_panic

SOME = SamplingParams(max_new_tokens=6, temperature=1.0, seed=3, ignore_eos=True)
KINDS = pytest.mark.parametrize("raises", [exception, panic])


def request(adapter_id: str = "", prompt: str = "some text") -> Request:
    return Request(prompt=prompt, adapter_id=adapter_id, sampling=SOME)


@pytest.fixture(scope="module")
def engine(tiny_base: Path, tiny_adapters: dict[str, Path]) -> Iterator[Engine]:
    config = EngineConfig(
        dtype="float32", kv_cache_bytes=8 << 20, max_running=16, adapter_load_threads=1
    )
    with Engine(tiny_base, config) as engine:
        for name in ("a1", "a2"):
            engine.load_adapter(tiny_adapters[name], name)
        yield engine


@pytest.fixture
def serves(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After the test the engine is as it was."""
    before = tokens(engine.submit(request("a2")))
    yield
    monkeypatch.undo()
    assert engine.healthy
    assert given_back(engine)
    assert tokens(engine.submit(request("a2"))) == before


def tokens(handle: RequestHandle) -> tuple[int, ...]:
    return handle.result().choices[0].token_ids


def after(patch: pytest.MonkeyPatch, owner: Any, name: str, raises: Raise) -> None:
    """Let a call raise once it has done its work."""
    whole = getattr(owner, name)

    def call(*args: Any, **named: Any) -> Any:
        whole(*args, **named)
        raises()

    patch.setattr(owner, name, call)


def before(patch: pytest.MonkeyPatch, owner: Any, name: str, raises: Raise) -> None:
    """Let the next call raise, and no other."""
    whole = getattr(owner, name)

    def call(*args: Any, **named: Any) -> Any:
        patch.setattr(owner, name, whole)
        raises()

    patch.setattr(owner, name, call)


# --- what hears -----------------------------------------------------------------------------------


class Broken(EngineObserver):
    def __init__(self, raises: Raise) -> None:
        self.heard: set[str] = set()
        for name in vars(EngineObserver):
            if name.startswith("on_"):
                setattr(self, name, self._raising(name, raises))

    def _raising(self, name: str, raises: Raise) -> Callable[..., None]:
        def hear(*args: object) -> None:
            self.heard.add(name)
            raises()

        return hear


@KINDS
def test_observers(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path], raises: Raise
) -> None:
    engine = make_engine(max_adapters=1)
    broken = Broken(raises)
    engine.add_observer(broken)
    for name in ("a1", "a2"):
        engine.load_adapter(tiny_adapters[name], name)
        engine.generate(request(name))
    known = engine.registrations()
    engine.unload_adapter("a1")
    engine.unload_adapter("a2")
    engine.register(next(one for one in known if one.adapter_id == "a2"))
    engine.generate(request("a2"))
    for bad in (lambda: engine.submit(request("a1")), lambda: engine.load_adapter("/none", "a1")):
        with pytest.raises(Exception, match=r"a1|none"):
            bad()
    engine._store.take_out(next(iter(engine._store._registry.versions.values())), "a reason")
    assert given_back(engine)
    assert engine.healthy
    every = {name for name in vars(EngineObserver) if name.startswith("on_")}
    assert broken.heard == every - {"on_engine_failed"}


# --- what gives back ------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize(
    "call",
    [
        lambda e: (e._scheduler, "finish"),
        lambda e: (e._limits, "leave"),
        lambda e: (e._store, "release"),
        lambda e: (e._store.slots, "release"),
        lambda e: (e._loop, "_report_step"),
        lambda e: (e._observers, "notify"),
    ],
)
def test_what_gives_back(
    engine: Engine,
    serves: None,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[Engine], tuple[Any, str]],
    raises: Raise,
) -> None:
    expected = tokens(engine.submit(request("a1")))
    after(monkeypatch, *call(engine), raises)
    with at_once(engine):
        handles = [engine.submit(request("a1")) for _ in range(3)]
        handles[0].cancel()
    assert [tokens(handle) for handle in handles[1:]] == [expected, expected]


@KINDS
@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda e: (e._scheduler, "add"), "cannot be queued"),
        (lambda e: (e._scheduler, "_match_prefix"), "cannot be scheduled"),
        (lambda e: (e._store.slots, "acquire"), "cannot be scheduled"),
        (lambda e: (e._scheduler.waiting, "charge"), "cannot be scheduled"),
        (lambda e: (e._limits, "charge"), "cannot be decoded or delivered"),
    ],
)
def test_the_first_of_several(
    engine: Engine,
    serves: None,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[Engine], tuple[Any, str]],
    told: str,
    raises: Raise,
) -> None:
    """A call that is made for one sequence after the other ends the one that it raised for."""
    expected = tokens(engine.submit(request("a1")))
    with at_once(engine):
        before(monkeypatch, *call(engine), raises)
        handles = [engine.submit(request("a1")) for _ in range(3)]
    with pytest.raises(EngineFailedError, match=f"{told}: .*injected"):
        handles[0].result()
    assert [tokens(handle) for handle in handles[1:]] == [expected, expected]


@KINDS
def test_a_preemption_that_raises(
    make_engine: Callable[..., Engine],
    tiny_adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    raises: Raise,
) -> None:
    """The one that makes way has lost its place: it is told, and not forgotten."""
    engine = make_engine(kv_cache_bytes=64 * 3 * 2 * 2 * 16 * 4 * 4)
    engine.load_adapter(tiny_adapters["a1"], "a1")
    with at_once(engine):
        handles = [
            engine.submit(
                Request(
                    prompt="text " * 4,
                    adapter_id="a1",
                    sampling=SamplingParams(max_new_tokens=60, ignore_eos=True),
                )
            )
            for _ in range(6)
        ]
        after(monkeypatch, engine._scheduler, "_let_go", raises)
    ends = []
    for handle in handles:
        try:
            ends.append(len(tokens(handle)))
        except EngineFailedError:
            ends.append(0)
    assert engine.stats().preemptions
    assert 0 < ends.count(0) < len(ends)
    assert set(ends) == {0, 60}
    monkeypatch.undo()
    assert engine.healthy
    assert given_back(engine)


@KINDS
def test_slots_that_cannot_be_asked(
    engine: Engine, serves: None, monkeypatch: pytest.MonkeyPatch, raises: Raise
) -> None:
    want = engine._store.slots.want

    def call(groups: Any) -> Any:
        if any(v.adapter_id == "a1" for group in groups for v in group):
            raises()
        return want(groups)

    expected = tokens(engine.submit(request("a2")))
    monkeypatch.setattr(engine._store.slots, "want", call)
    with at_once(engine):
        guilty, other = engine.submit(request("a1")), engine.submit(request("a2"))
    with pytest.raises(EngineFailedError, match=r"cannot be scheduled: .*injected"):
        guilty.result()
    assert tokens(other) == expected


@KINDS
def test_a_place_that_raises(
    make_engine: Callable[..., Engine],
    tiny_adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    raises: Raise,
) -> None:
    engine = make_engine(max_adapters=1)
    for name in ("a1", "a2"):
        engine.load_adapter(tiny_adapters[name], name)
    engine.generate(request("a1"))
    monkeypatch.setattr(engine.base, "place_adapter", lambda staged: raises())
    with at_once(engine):
        guilty, other = engine.submit(request("a2")), engine.submit(request())
    with pytest.raises(AdapterUnavailableError, match=r"'a2' cannot be placed: .*injected"):
        guilty.result()
    other.result()
    monkeypatch.undo()
    assert engine.generate(request("a2")).text
    assert given_back(engine)


# --- the way in -----------------------------------------------------------------------------------


@KINDS
def test_a_tokenizer_that_raises_on_a_prompt(
    engine: Engine, serves: None, monkeypatch: pytest.MonkeyPatch, raises: Raise
) -> None:
    tokenizer = engine.base.tokenizer
    monkeypatch.setattr(type(tokenizer), "__call__", lambda *_, **__: raises())
    with pytest.raises(EngineFailedError, match=r"the request cannot be taken in: .*injected"):
        engine.submit(request("a1"))
    monkeypatch.setattr(type(tokenizer), "apply_chat_template", lambda *_, **__: raises())
    chat = Request(messages=(ChatMessage("user", "hi"),), adapter_id="a1", sampling=SOME)
    with pytest.raises((EngineFailedError, InvalidRequestError), match="injected"):
        engine.submit(chat)


def test_a_tokenizer_that_panics_on_a_prompt(
    engine: Engine, serves: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = engine.base.tokenizer
    monkeypatch.setattr(type(tokenizer), "__call__", lambda *_, **__: rust_panic())
    with pytest.raises(EngineFailedError, match="cannot be taken in: PanicException"):
        engine.submit(request("a1"))


def test_an_interrupt_is_not_swallowed(
    engine: Engine, serves: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(engine.base.tokenizer), "__call__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        engine.submit(request("a1"))


@KINDS
def test_a_read_that_raises(
    engine: Engine,
    serves: None,
    tiny_adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    raises: Raise,
) -> None:
    """On demand, on the one thread that reads: those who wait are told, and it reads on."""
    known = next(r for r in engine.registrations() if r.adapter_id == "a1").versions[0]
    place = known.__class__("0" * 64, str(tiny_adapters["a3"]), str(tiny_adapters["a3"]))
    engine.register(Registration("cold", (place,)))
    monkeypatch.setattr(loader, "read_adapter", lambda *_, **__: raises())
    for _ in range(2):
        with pytest.raises(AdapterUnavailableError, match=r"'cold' cannot be brought in: .*inject"):
            engine.submit(request("cold"))
    with pytest.raises(AdapterError if raises is panic else RuntimeError, match="injected"):
        engine.load_adapter(tiny_adapters["a4"], "a4")
    monkeypatch.undo()
    engine.unload_adapter("cold")


@KINDS
def test_scheduling_that_raises_for_no_one(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch, raises: Raise
) -> None:
    """Once, it is tried again; always, the engine says so."""
    engine = make_engine()
    expected = tokens(engine.submit(request()))
    with at_once(engine):
        before(monkeypatch, engine._scheduler, "_crowd", raises)
        handle = engine.submit(request())
    assert tokens(handle) == expected
    with at_once(engine):
        monkeypatch.setattr(engine._scheduler, "_crowd", lambda: raises())
        handle = engine.submit(request())
    with pytest.raises(EngineFailedError, match="the engine has failed"):
        handle.result()
    assert not engine.healthy


# --- the device -----------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("stage", ["forward", "sample_rows"])
def test_a_step_of_the_base_alone_that_raises_ends_the_engine(
    make_engine: Callable[..., Engine],
    tiny_adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    raises: Raise,
) -> None:
    engine = make_engine()
    engine.load_adapter(tiny_adapters["a1"], "a1")
    owner = runner_of(engine) if stage == "forward" else engine.base
    monkeypatch.setattr(owner, stage, lambda *_, **__: raises())
    with at_once(engine):
        handles = [engine.submit(request(name)) for name in ("", "a1")]
    for handle in handles:
        with pytest.raises(EngineFailedError, match="the engine has failed"):
            handle.result()
    assert "injected" in str(engine.failure)
    assert not engine.healthy
    assert engine.get_adapter("a1").error == ""
