"""The report of what is in slots, in host memory, or on its way there, and of how full the engine
is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from lora_runtime import (
    AdapterPolicy,
    AdapterState,
    AdapterUnavailableError,
    Engine,
    RegisteredVersion,
    ResidentAdapter,
)
from lora_runtime.adapters.store import residents
from lora_runtime.adapters.store.tiers import Tiers
from lora_runtime.adapters.store.version import AdapterVersion

from ....support.engines import HangingSteps, wait_until_idle
from ....support.processes import wait_until
from ....support.store import current_version
from .test_adapter_tiers import LONG, Gate, ask


def levels(engine: Engine) -> dict[str, AdapterState]:
    return {i: a.level for a in engine.residents() for i in a.adapter_ids}


def resident(engine: Engine, adapter_id: str) -> ResidentAdapter:
    return next(a for a in engine.residents() if adapter_id in a.adapter_ids)


def test_slots_come_before_host_memory(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]
) -> None:
    engine = make_engine(max_adapters=2)
    assert engine.residents() == ()
    infos = [engine.load_adapter(tiny_adapters[f"a{i}"], f"a{i}") for i in range(3)]
    assert list(levels(engine).items()) == [("a1", "device"), ("a2", "device"), ("a0", "host")]
    a2 = resident(engine, "a2")
    assert (a2.version, a2.rank, a2.num_bytes) == (
        infos[2].version,
        infos[2].max_rank,
        infos[2].num_bytes,
    )
    assert a2.staged
    assert a2.in_service
    assert not a2.pinned
    assert resident(engine, "a0").host_bytes > 0


def test_the_report_is_the_same_object_until_it_changes(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]
) -> None:
    engine = make_engine(max_adapters=2)
    reports = [engine.residents()]

    def has_changed() -> bool:
        reports.append(engine.residents())
        return reports[-1] is not reports[-2]

    engine.load_adapter(tiny_adapters["a0"], "a0")
    assert has_changed()
    engine.generate(ask("a0"))
    wait_until_idle(engine)
    assert not has_changed()  # however many requests come and go
    engine.set_policy("a0", AdapterPolicy(pinned=True))
    assert has_changed()
    assert resident(engine, "a0").pinned
    engine.load_adapter(tiny_adapters["a0"], "another")  # the same version: one slot
    assert has_changed()
    assert [a.adapter_ids for a in engine.residents()] == [("a0", "another")]
    engine.unload_adapter("a0")
    assert has_changed()
    assert [a.adapter_ids for a in engine.residents()] == [("another",)]
    engine.unload_adapter("another")
    assert engine.residents() == ()


def test_ids_of_one_version_cost_nothing_until_someone_asks(
    make_engine: Callable[..., Engine],
    tiny_adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = Mock(side_effect=residents._report)
    monkeypatch.setattr(residents, "_report", made)
    engine = make_engine()
    for number in range(20):
        engine.load_adapter(tiny_adapters["a0"], f"a{number}")
    assert made.call_count == 0
    assert len(engine.residents()[0].adapter_ids) == 20
    engine.load_adapter(tiny_adapters["a1"], "another")
    assert len(engine.residents()) == made.call_count == 2  # the first one's is kept


def test_a_canary_has_a_slot_and_a_replaced_version_keeps_its_own(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]
) -> None:
    engine = make_engine(max_adapters=3)
    old = engine.load_adapter(tiny_adapters["a0"], "a").version
    hanging = HangingSteps(engine)
    handle = engine.submit(ask("a", LONG))
    assert hanging.reached.wait(10)
    engine.load_adapter(tiny_adapters["a1"], "a")
    canary = engine.load_adapter(tiny_adapters["a2"], "a", canary_weight=0.5).canary
    assert canary is not None
    found = {a.version: a.adapter_ids for a in engine.residents() if a.level == "device"}
    new = engine.get_adapter("a").version
    assert found == {old: (), new: ("a",), canary.version: ("a",)}
    assert engine.running_sequences() == {old: 1, new: 0, canary.version: 0}
    assert engine.occupancy().running == 1
    handle.cancel()
    hanging.open.set()
    wait_until_idle(engine)
    wait_until(lambda: old not in engine.running_sequences())  # it was replaced
    assert engine.occupancy().running == 0


def test_what_is_read_is_loading_and_what_has_no_room_is_awaited(
    make_engine: Callable[..., Engine],
    tiny_adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = make_engine(max_adapters=1, adapter_host_bytes=0, adapter_load_threads=1)
    for name in ("a0", "a1", "a2"):
        engine.load_adapter(tiny_adapters[name], name)
    gate = Gate(monkeypatch, tiny_adapters["a0"])
    handles = [engine.submit(ask(name)) for name in ("a0", "a1")]
    assert gate.entered.wait(10)
    wait_until(lambda: engine.occupancy().awaited == ("a1",))
    assert levels(engine)["a0"] == "loading"
    assert "a1" not in levels(engine)
    assert engine.occupancy().waiting == 2
    gate.open.set()
    for handle in handles:
        handle.result()
    wait_until_idle(engine)
    assert engine.occupancy().awaited == ()
    wait_until(lambda: list(levels(engine).values()) == ["device"])


def test_out_of_service_is_said(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]
) -> None:
    engine = make_engine()
    engine.load_adapter(tiny_adapters["a0"], "a0")
    hanging = HangingSteps(engine)
    handle = engine.submit(ask("a0", LONG))
    assert hanging.reached.wait(10)
    engine._store.take_out(current_version(engine, "a0"), "steps with it fail")
    assert not resident(engine, "a0").in_service  # in its slot while something runs with it
    handle.cancel()
    hanging.open.set()
    wait_until(lambda: engine.residents() == ())
    with pytest.raises(AdapterUnavailableError):
        engine.generate(ask("a0"))
    engine.load_adapter(tiny_adapters["a0"], "a0")
    assert resident(engine, "a0").in_service
    assert resident(engine, "a0").staged


def test_what_cannot_be_pinned_is_never_said_to_be() -> None:
    told: list[bool] = []
    base: Any = SimpleNamespace(shares_host_memory=True)
    tiers = Tiers(
        base,
        slots=1,
        device_bytes=0,
        host_bytes=0,
        on_evicted=lambda version, reason: None,
        on_change=lambda version: told.append(version in tiers.pinned),
    )
    for name in ("a", "b"):
        tiers.pin(AdapterVersion(RegisteredVersion(name, name, name), name), True)
    assert told == [True, False]
