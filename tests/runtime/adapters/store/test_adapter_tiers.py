"""Source, host memory, slots: what is where, who leaves, and that a cold adapter delays nobody but
itself."""

from __future__ import annotations

import gc
import shutil
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from lora_runtime import (
    AdapterCapacityError,
    AdapterError,
    AdapterInfo,
    AdapterLimitError,
    AdapterPolicy,
    AdapterState,
    AdapterUnavailableError,
    CallerLimitError,
    Engine,
    EngineObserver,
    QueueFullError,
    Request,
    RequestCancelledError,
    RequestTimeoutError,
    SamplingParams,
    UnknownAdapterError,
    WeightedAdapter,
)
from lora_runtime.adapters.sources.disk_cache import sweep
from lora_runtime.adapters.store import reading

from ....support.adapters import edit_config
from ....support.device import ON_GPU
from ....support.engines import counted_by_limits, open_choices, slow_down, wait_until_idle
from ....support.processes import wait_until
from ....support.store import before_reads, current_version, known_versions

SHORT = SamplingParams(max_new_tokens=6, ignore_eos=True)
LONG = SamplingParams(max_new_tokens=60, ignore_eos=True)


def ask(adapter_id: str, sampling: SamplingParams = SHORT) -> Request:
    return Request(prompt="a prompt", adapter_id=adapter_id, sampling=sampling)


def load_all(engine: Engine, adapters: dict[str, Path]) -> dict[str, str]:
    """Loads them and gives each one's answer, alone."""
    for name, path in adapters.items():
        engine.load_adapter(path, name)
    return {name: engine.generate(ask(name)).text for name in adapters}


def states(engine: Engine) -> dict[str, AdapterState]:
    return {a.adapter_id: a.state for a in engine.list_adapters()}


class Gate:
    """Holds back every read of one source until `open` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, source: Path) -> None:
        self.open, self.entered = threading.Event(), threading.Event()

        def hold_back(directory: Path) -> None:
            if directory == source:
                self.entered.set()
                self.open.wait(30)

        before_reads(monkeypatch, hold_back)


def test_eight_adapters_share_two_slots(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]
) -> None:
    engine = make_engine(max_adapters=2)
    expected = load_all(engine, tiny_adapters)
    assert list(states(engine).values()).count(AdapterState.DEVICE) == 2
    handles = [(name, engine.submit(ask(name))) for _ in range(3) for name in tiny_adapters]
    assert [h.result().text for _, h in handles] == [expected[name] for name, _ in handles]
    stats = wait_until_idle(engine)
    assert (stats.adapters, stats.registered_adapters) == (2, 8)
    assert stats.host_adapters == (
        8 if ON_GPU else 6
    )  # on a CPU a slot is host memory: it counts once
    assert len(set(expected.values())) > 4  # or the comparison would show nothing


def test_the_least_recently_used_leaves(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]
) -> None:
    engine, evicted = make_engine(max_adapters=2), []

    class Ear(EngineObserver):
        def on_adapter_evicted(self, info: AdapterInfo, reason: str) -> None:
            evicted.append((info.adapter_id, reason))

    engine.add_observer(Ear())
    for name in ("a0", "a1"):
        engine.load_adapter(tiny_adapters[name], name)
    engine.generate(ask("a0"))
    engine.load_adapter(tiny_adapters["a2"], "a2")
    assert evicted == [("a1", "evicted")]
    assert states(engine) == {"a0": "device", "a1": "host", "a2": "device"}


def test_slots_are_sized_by_rank(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]
) -> None:
    sizes = {}
    engine = make_engine()
    for name, path in tiny_adapters.items():
        sizes[name] = engine.load_adapter(path, name).num_bytes
    assert sizes["a0"] < sizes["a7"]
    # Room for the largest alone, or for three small ones.
    engine = make_engine(adapter_device_bytes=sizes["a7"])
    for name in ("a0", "a1", "a2"):
        engine.load_adapter(tiny_adapters[name], name)
    assert engine.stats().adapter_bytes == sum(sizes[n] for n in ("a0", "a1", "a2")) <= sizes["a7"]
    engine.load_adapter(tiny_adapters["a7"], "a7")
    assert states(engine) == {"a0": "host", "a1": "host", "a2": "host", "a7": "device"}
    engine = make_engine(adapter_device_bytes=sizes["a7"] - 1)
    with pytest.raises(AdapterCapacityError, match="a7"):
        engine.load_adapter(tiny_adapters["a7"], "a7")
    assert engine.list_adapters() == []
    assert (engine.stats().host_adapter_bytes, engine.stats().adapter_bytes) == (0, 0)


def test_host_memory_has_a_budget_too(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]
) -> None:
    engine = make_engine(max_adapters=1, adapter_host_bytes=0)
    expected = load_all(engine, {n: tiny_adapters[n] for n in ("a0", "a1", "a2")})
    # What leaves a slot is given up by the engine's thread, in a step of its own.
    wait_until(lambda: states(engine) == {"a0": "cold", "a1": "cold", "a2": "device"})
    assert engine.stats().host_adapter_bytes == 0
    assert engine.generate(ask("a0")).text == expected["a0"]  # brought back from its source
    wait_until(lambda: states(engine) == {"a0": "device", "a1": "cold", "a2": "cold"})


def test_what_runs_is_never_evicted(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]
) -> None:
    engine = make_engine(max_adapters=1)
    expected = load_all(engine, {n: tiny_adapters[n] for n in ("a0", "a1")})
    slow_down(engine)
    running = engine.submit(ask("a1", LONG))
    events = iter(running)
    next(events)
    waiting = engine.submit(ask("a0"))
    assert engine.generate(Request(prompt="base rows go on", sampling=SHORT)).text
    assert states(engine) == {"a0": "host", "a1": "device"}
    engine.load_adapter(tiny_adapters["a2"], "a2")  # stays in host memory: the slot is in use
    assert states(engine)["a2"] == "host"
    assert len(list(events)) == LONG.max_new_tokens - 1
    assert waiting.result().text == expected["a0"]


def test_a_cold_adapter_delays_only_itself(
    make_engine: Callable[..., Engine],
    tiny_adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = make_engine(max_adapters=2, adapter_host_bytes=0)
    expected = load_all(engine, {n: tiny_adapters[n] for n in ("a0", "a1", "a2")})
    gate = Gate(monkeypatch, tiny_adapters["a0"])
    cold = engine.submit(ask("a0"))
    assert gate.entered.wait(10)
    for name in ("a2", "a1", "a2"):  # one in a slot, one that is loaded past the slow one
        assert engine.generate(ask(name)).text == expected[name]
    assert states(engine)["a0"] == "loading"
    wait_until(
        lambda: engine.stats().loading_adapters < 2
    )  # a reading ends a moment after its request was served
    assert engine.stats().loading_adapters == 1
    gate.open.set()
    done = cold.result()
    assert done.text == expected["a0"]


def test_a_waiting_request_can_be_cancelled_or_time_out(
    make_engine: Callable[..., Engine],
    tiny_adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = make_engine(max_adapters=1, adapter_host_bytes=0)
    load_all(engine, {n: tiny_adapters[n] for n in ("a0", "a1")})
    gate = Gate(monkeypatch, tiny_adapters["a0"])
    cancelled = engine.submit(ask("a0"))
    cancelled.cancel()
    with pytest.raises(RequestCancelledError):
        cancelled.result()
    with pytest.raises(RequestTimeoutError):
        engine.generate(Request(prompt="a prompt", adapter_id="a0", timeout_s=0.1))
    gate.open.set()
    assert wait_until_idle(engine).leases == 0


def test_a_source_that_is_gone_or_changed_fails_its_own_requests(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    engine = make_engine(max_adapters=1, adapter_host_bytes=0)
    path = shutil.copytree(tiny_adapters["a0"], tmp_path / "mine")
    engine.load_adapter(path, "mine")
    expected = engine.generate(ask("mine")).text
    engine.load_adapter(tiny_adapters["a1"], "other")
    shutil.rmtree(path)
    with pytest.raises(AdapterUnavailableError, match="mine"):
        engine.generate(ask("mine"))
    assert states(engine)["mine"] == "failed"
    shutil.copytree(tiny_adapters["a2"], path)
    with pytest.raises(AdapterUnavailableError, match="other content than was registered"):
        engine.generate(ask("mine"))
    shutil.rmtree(path)
    shutil.copytree(tiny_adapters["a0"], path)
    assert engine.generate(ask("mine")).text == expected
    assert engine.get_adapter("mine").error == ""


def test_pinned_adapters_stay(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]
) -> None:
    engine = make_engine(max_adapters=2)
    expected = load_all(engine, {n: tiny_adapters[n] for n in ("a0", "a1", "a2")})
    engine.generate(ask("a0"))
    engine.set_policy("a0", AdapterPolicy(pinned=True))
    for _ in range(2):
        for name in ("a1", "a2"):
            assert engine.generate(ask(name)).text == expected[name]
            assert states(engine)["a0"] == "device"
    engine.set_policy("a1", AdapterPolicy(pinned=True))
    with pytest.raises(AdapterCapacityError):
        engine.set_policy("a2", AdapterPolicy(pinned=True))
    with pytest.raises(AdapterCapacityError):  # it could wait for ever
        engine.generate(ask("a2"))
    engine.set_policy("a0", AdapterPolicy())
    assert engine.generate(ask("a2")).text == expected["a2"]


def test_unloading_gives_every_byte_back(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]
) -> None:
    engine = make_engine(max_adapters=2)
    load_all(engine, tiny_adapters)
    staged = [weakref.ref(current_version(engine, name).staged) for name in tiny_adapters]
    assert all(ref() is not None for ref in staged)
    for name in tiny_adapters:
        engine.unload_adapter(name)
    gc.collect()
    assert [ref() for ref in staged] == [None] * 8
    stats = engine.stats()
    assert (stats.adapters, stats.adapter_bytes, stats.host_adapters, stats.host_adapter_bytes) == (
        0,
        0,
        0,
        0,
    )
    assert stats.registered_adapters == 0


def test_registrations_come_back_cold(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]
) -> None:
    engine = make_engine()
    expected = load_all(engine, {n: tiny_adapters[n] for n in ("a0", "a1")})
    engine.load_adapter(tiny_adapters["a2"], "a0")
    engine.load_adapter(
        tiny_adapters["a3"], "a1", canary_weight=0.25, policy=AdapterPolicy(weight=2)
    )
    saved = engine.registrations()
    restarted = make_engine()
    for registration in saved:
        restarted.register(registration)
    assert restarted.registrations() == saved
    assert set(states(restarted).values()) == {AdapterState.COLD}
    assert restarted.rollback_adapter("a0").version == engine.get_adapter("a0").older_versions[0]
    assert restarted.generate(ask("a0")).text == expected["a0"]
    assert restarted.get_adapter("a1").policy.weight == 2
    assert restarted.get_adapter("a1").canary == engine.get_adapter("a1").canary


def test_options_of_a_load_hold_when_it_is_read_again(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    path = shutil.copytree(tiny_adapters["a0"], tmp_path / "odd")
    edit_config(path, mathematics_of_tomorrow=1)
    engine = make_engine()
    with pytest.raises(AdapterError, match="mathematics_of_tomorrow"):
        engine.load_adapter(path, "x")
    notes = engine.load_adapter(path, "x", allow_unknown_fields=True).notes
    assert any("mathematics_of_tomorrow" in note for note in notes)
    with pytest.raises(AdapterError, match="mathematics_of_tomorrow"):  # it was for the other load
        engine.load_adapter(path, "y")
    restarted = make_engine()
    restarted.register(*engine.registrations())
    assert restarted.generate(ask("x")).text == engine.generate(ask("x")).text
    assert restarted.get_adapter("x").notes == notes


def test_unloading_waits_alone(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    """While an unload waits for its leases, other requests hear of their adapters as ever."""
    engine = make_engine(max_adapters=2, adapter_host_bytes=0)
    path = shutil.copytree(tiny_adapters["a0"], tmp_path / "gone")
    engine.load_adapter(path, "gone")
    for name in ("a1", "a2"):
        engine.load_adapter(tiny_adapters[name], name)
    shutil.rmtree(path)
    slow_down(engine)
    running = engine.submit(ask("a1", LONG))
    unloading = threading.Thread(target=engine.unload_adapter, args=("a1", 30))
    unloading.start()
    with pytest.raises(AdapterUnavailableError):
        engine.generate(ask("gone"))
    assert unloading.is_alive()
    running.cancel()
    unloading.join()
    assert set(states(engine)) == {"a2", "gone"}


def test_an_id_may_go_while_it_is_first_read(
    make_engine: Callable[..., Engine],
    tiny_adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = make_engine()
    known.load_adapter(tiny_adapters["a0"], "a0")
    engine = make_engine()
    engine.register(known.registrations()[0])
    gate = Gate(monkeypatch, tiny_adapters["a0"])
    reading = engine.prepare(ask("a0"))
    assert gate.entered.wait(10)
    engine.unload_adapter("a0")
    gate.open.set()
    reading.result()
    with pytest.raises(UnknownAdapterError):
        engine.submit(ask("a0"))
    assert engine.stats().host_adapters == 0
    assert not known_versions(engine)


def test_a_cold_adapter_waits_for_a_slot_in_host_memory(
    make_engine: Callable[..., Engine],
    tiny_adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All slots are in use and host memory holds nothing: still each is read once, not again and
    again."""
    engine, reads = make_engine(max_adapters=2, adapter_host_bytes=0), []
    expected = load_all(engine, {n: tiny_adapters[n] for n in ("a0", "a1", "a2", "a3")})
    slow_down(engine)
    running = [engine.submit(ask(name, LONG)) for name in ("a2", "a3")]
    for handle in running:
        next(iter(handle))
    before_reads(monkeypatch, lambda directory: reads.append(directory.name))
    waiting = [engine.submit(ask(name)) for name in ("a0", "a1")]
    assert [h.result().text for h in waiting] == [expected["a0"], expected["a1"]]
    assert sorted(reads) == ["a0", "a1"]
    wait_until_idle(engine)
    assert engine.stats().host_adapter_bytes == 0


def test_pinning_refuses_what_it_leaves_no_room_for(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]
) -> None:
    engine = make_engine(max_adapters=3)
    expected = load_all(engine, {n: tiny_adapters[n] for n in ("a0", "a1", "a2", "a3", "a4")})
    slow_down(engine)
    running = [engine.submit(ask(name, LONG)) for name in ("a2", "a3", "a4")]
    for handle in running:
        next(iter(handle))
    pair = (WeightedAdapter("a0"), WeightedAdapter("a1"))
    both = engine.submit(Request(prompt="a prompt", adapters=pair, sampling=SHORT))
    single = engine.submit(ask("a0"))
    for name in ("a2", "a3"):
        engine.set_policy(name, AdapterPolicy(pinned=True))
    with pytest.raises(AdapterCapacityError):  # the two could not be together any more
        both.result()
    for handle in running:
        handle.cancel()
    assert single.result().text == expected["a0"]  # but each alone
    with pytest.raises(AdapterCapacityError):
        engine.submit(Request(prompt="a prompt", adapters=pair, sampling=SHORT))


def test_fetched_adapters_stay_on_disk_within_the_limit(
    make_engine: Callable[..., Engine],
    tiny_adapters: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "sweep", partial(sweep, grace_s=0))
    cache = tmp_path / "cache"
    engine = make_engine(
        max_adapters=1, adapter_cache_dir=str(cache), adapter_cache_bytes=1, adapter_host_bytes=0
    )
    expected = {}
    for name in ("a0", "a1", "a2"):
        source = shutil.copytree(tiny_adapters[name], tmp_path / name)
        engine.load_adapter(source.as_uri(), name)
        expected[name] = engine.generate(ask(name)).text
        if name == "a0":
            engine.unload_adapter("a0")
        shutil.rmtree(source)
    assert len([d for d in cache.iterdir() if len(d.name) == 64]) == 2  # a0's went
    assert engine.generate(ask("a1")).text == expected["a1"]  # from the cache: the source is gone


def test_ids_of_one_content_do_not_depend_on_each_others_sources(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    engine = make_engine(max_adapters=1, adapter_host_bytes=0)
    mine, copy = (shutil.copytree(tiny_adapters["a0"], tmp_path / n) for n in ("mine", "copy"))
    engine.load_adapter(mine, "mine")
    engine.load_adapter(copy, "copy")
    assert [engine.get_adapter(n).source for n in ("mine", "copy")] == [str(mine), str(copy)]
    expected = engine.generate(ask("mine")).text
    engine.unload_adapter("copy")
    shutil.rmtree(copy)
    engine.load_adapter(tiny_adapters["a1"], "other")
    assert engine.generate(ask("mine")).text == expected
    assert engine.registrations()[0].versions[0].source == str(mine)
    engine.load_adapter(tiny_adapters["a1"], "other")
    shutil.rmtree(mine)
    with pytest.raises(AdapterUnavailableError, match="'mine' cannot be brought in"):
        engine.generate(ask("mine"))


def test_requests_for_one_unread_adapter_share_one_reading(
    make_engine: Callable[..., Engine],
    tiny_adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = make_engine()
    for name in ("a0", "a1"):
        first.load_adapter(tiny_adapters[name], name)
    engine = make_engine(adapter_load_threads=2, max_running=2, max_waiting=6)
    for registration in first.registrations():
        engine.register(registration)
    engine.set_policy("*", AdapterPolicy(max_waiting=7))  # more than half of the queue
    gate = Gate(monkeypatch, tiny_adapters["a0"])
    waiting = [engine.prepare(ask("a0")) for _ in range(6)]
    assert gate.entered.wait(10)
    assert engine.stats().loading_adapters == 1
    assert engine.generate(ask("a1")).adapter_id == "a1"  # the other thread is free
    waiting += [engine.prepare(ask("a0")) for _ in range(2)]
    with pytest.raises(QueueFullError):
        engine.prepare(ask("a0"))
    assert waiting[0].cancel()
    gate.open.set()
    for ready in waiting[1:]:
        ready.result(10)
    assert engine.generate(ask("a0")).adapter_id == "a0"


def test_every_choice_counts_while_its_adapter_is_read(
    make_engine: Callable[..., Engine],
    tiny_adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = make_engine()
    first.load_adapter(tiny_adapters["a0"], "a0")
    engine = make_engine(max_running=2, max_waiting=6)
    engine.register(first.registrations()[0])
    gate = Gate(monkeypatch, tiny_adapters["a0"])

    def choices(n: int, adapter_id: str, caller: str) -> Request:
        return replace(ask(adapter_id, replace(SHORT, n=n)), caller=caller)

    reading = engine.prepare(choices(3, "a0", "alice"))
    assert gate.entered.wait(10)
    with pytest.raises(CallerLimitError):  # she may have 4 of one adapter
        engine.prepare(choices(2, "a0", "alice"))
    with pytest.raises(AdapterLimitError):  # it may have 5
        engine.prepare(choices(3, "a0", "bob"))
    with pytest.raises(QueueFullError):  # all may have 8
        engine.submit(choices(6, "", "bob"))
    gate.open.set()
    reading.result(10)
    wait_until(lambda: not counted_by_limits(engine))
    assert len(engine.generate(choices(3, "a0", "alice")).choices) == 3
    wait_until_idle(engine)
    assert not counted_by_limits(engine)


def test_a_pinned_adapter_is_replaced_in_its_own_slot(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]
) -> None:
    engine = make_engine(max_adapters=1)
    engine.load_adapter(tiny_adapters["a0"], "x", policy=AdapterPolicy(pinned=True))
    version = engine.load_adapter(tiny_adapters["a1"], "x").version
    assert states(engine) == {"x": "device"}
    assert engine.generate(ask("x")).adapter_version == version
    with pytest.raises(AdapterCapacityError):
        engine.load_adapter(tiny_adapters["a2"], "y")


def test_a_replaced_version_lasts_as_long_as_its_requests(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    """Though it is preempted, host memory has no room for it, and its directory holds something
    else by now."""
    engine = make_engine(adapter_host_bytes=0, max_running=4, kv_cache_bytes=6 * 16 * 1024)
    path = shutil.copytree(tiny_adapters["a6"], tmp_path / "x")
    old = engine.load_adapter(path, "x").version
    slow_down(engine, 0.002)
    running = [engine.submit(ask("x", LONG)) for _ in range(4)]
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tiny_adapters["a7"] / name, path / name)
    new = engine.load_adapter(path, "x").version
    assert [h.result().adapter_version for h in running] == [old] * 4
    assert engine.stats().preemptions > 0
    assert engine.generate(ask("x")).adapter_version == new
    assert engine.stats().adapters == 1
    assert engine.stats().host_adapter_bytes == 0


def test_pins_never_fill_more_than_the_slots(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]
) -> None:
    wide = make_engine(max_adapters=3)
    for name in ("a0", "a1", "a2"):
        wide.load_adapter(tiny_adapters[name], name, policy=AdapterPolicy(pinned=True))
    engine = make_engine(max_adapters=1)
    for registration in wide.registrations():
        engine.register(registration)
    assert engine.generate(ask("a0")).adapter_id == "a0"
    engine = make_engine(max_adapters=1)
    engine.load_adapter(tiny_adapters["a0"], "x", policy=AdapterPolicy(pinned=True))
    with pytest.raises(AdapterCapacityError):
        engine.load_adapter(
            tiny_adapters["a1"], "x", canary_weight=0.5, policy=AdapterPolicy(pinned=True)
        )
    assert engine.generate(ask("x")).adapter_id == "x"


def test_a_large_adapter_gets_its_room(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]
) -> None:
    sizes = {}
    probe = make_engine()
    for name, path in tiny_adapters.items():
        sizes[name] = probe.load_adapter(path, name).num_bytes
    engine = make_engine(adapter_device_bytes=sizes["a7"], max_running=4)
    for name in ("a7", "a0", "a1", "a2"):
        engine.load_adapter(tiny_adapters[name], name)
    slow_down(engine, 0.002)
    small = [engine.submit(ask(f"a{i % 3}", LONG)) for i in range(6)]
    large = engine.submit(ask("a7"))
    small += [engine.submit(ask(f"a{i % 3}", LONG)) for i in range(24)]
    large.result()
    assert sum(open_choices(h) for h in small) > 6
    for handle in small:
        handle.result()


def test_a_deadline_holds_while_an_adapter_is_read_first(
    make_engine: Callable[..., Engine],
    tiny_adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = make_engine()
    first.load_adapter(
        tiny_adapters["a0"], "a0", policy=AdapterPolicy(max_running=1, max_waiting=1)
    )
    engine = make_engine()
    engine.register(first.registrations()[0])
    gate = Gate(monkeypatch, tiny_adapters["a0"])
    with pytest.raises(RequestTimeoutError):
        engine.generate(Request(prompt="hi", adapter_id="a0", timeout_s=0.05))
    # It has left its place.
    waiting = [engine.prepare(ask("a0")) for _ in range(2)]
    with pytest.raises(AdapterLimitError):
        engine.prepare(ask("a0"))
    gate.open.set()
    for each in waiting:
        each.result(10)
    assert engine.generate(ask("a0")).adapter_id == "a0"
    assert not counted_by_limits(engine)
