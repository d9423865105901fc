"""Slots whose device has less memory than their budget says: nothing falls over, nothing leaks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lora_runtime import AdapterCapacityError, RegisteredVersion
from lora_runtime.adapters.store import tiers as tiers_module
from lora_runtime.adapters.store.tiers import SHORTAGE_S, Tiers
from lora_runtime.adapters.store.version import AdapterVersion
from lora_runtime.backends.torch.adapter import TorchAdapter
from lora_runtime.backends.torch.backend import TorchBackend
from lora_runtime.backends.triton.placement import FlatAdapter, Placer
from lora_runtime.kernels.updates import ModuleDelta
from lora_runtime.modules import BaseModule, ModuleKind

from ....support.device_path import free_slots
from ....support.streams import DeferredCopies

SIZE = 512  # of an adapter of one module of rank 1: A and B


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Device:
    """Tiers over a placer, and versions staged for them."""

    def __init__(self, *, slots: int = 8, budget: int = 0, memory: int = 1 << 20) -> None:
        self.copies = DeferredCopies(memory)
        modules = {"layers.0.q": BaseModule(ModuleKind.LINEAR, 4, 4, False)}
        self.placer = Placer(modules, slots, torch.float32, self.copies)
        base: Any = SimpleNamespace(
            shares_host_memory=False,
            place_adapter=self.placer.place,
            remove_adapter=self.placer.remove,
        )
        self.evicted: list[str] = []
        self.tiers = Tiers(
            base,
            slots=slots,
            device_bytes=budget,
            host_bytes=1 << 20,
            on_evicted=lambda version, reason: self.evicted.append(version.version),
            on_change=lambda version: None,
        )

    def version(self, name: str) -> AdapterVersion:
        version = AdapterVersion(RegisteredVersion(name, name, name), name)
        delta = ModuleDelta(ModuleKind.LINEAR, 4, torch.ones(1, 4), torch.ones(4, 1))
        self.tiers.stage(version, FlatAdapter({"layers.0.q": delta}))
        assert version.device_bytes == SIZE
        return version

    def step(self) -> None:
        self.placer.flush()
        self.copies.run()

    @property
    def taken(self) -> int:
        self.step()
        self.placer.flush()
        return (1 << 20) - self.copies.free


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tiers_module, "time", clock)
    return clock


def test_slots_and_bytes_come_back() -> None:
    device = Device(slots=2)
    tiers, (a, b, c) = device.tiers, [device.version(name) for name in "abc"]
    assert tiers.place(a)
    assert tiers.place(b)
    b.running = 1
    assert device.taken == 2 * SIZE
    assert tiers.place(c)  # in a's slot
    assert device.evicted == ["a"]
    assert device.taken == 2 * SIZE
    assert tiers.host_bytes == 3 * SIZE
    tiers.drop(c, "unloaded")
    assert device.taken == SIZE
    tiers.close()  # but what runs stays until it is done
    assert (device.taken, tiers.resident) == (SIZE, {b})
    assert not tiers.place(a)
    b.running = 0
    tiers.demote(b, "unloaded")
    assert device.taken == 0
    assert not device.placer.table.addresses.any()


def test_the_host_budget_counts_what_host_memory_takes() -> None:
    """Pinned memory takes more than what is in it."""
    device = Device()
    tiers = device.tiers
    staged = FlatAdapter(
        {"layers.0.q": ModuleDelta(ModuleKind.LINEAR, 4, torch.ones(1, 4), torch.ones(4, 1))}
    )
    staged.host_bytes = 1 << 19
    a, b, c = (AdapterVersion(RegisteredVersion(name, name, name), name) for name in "abc")
    for version in (a, b):
        tiers.stage(version, staged)
    tiers.trim()
    assert (tiers.host_bytes, tiers.hosted) == (1 << 20, {a, b})
    tiers.want([a, b, c])
    assert tiers.keeps(b)
    c.host_bytes = 1
    assert not tiers.keeps(c)
    tiers.want([])
    tiers.stage(c, staged)
    tiers.trim()
    assert tiers.hosted == {b, c}


def test_a_slot_of_its_own_counts_beside_host_memory() -> None:
    device = Device()
    version = device.version("a")
    device.tiers.place(version)
    assert (device.tiers.device_bytes, device.tiers.host_bytes) == (SIZE, SIZE)


def test_without_memory_a_version_stays_in_host_memory_and_others_make_room(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    device = Device(memory=2 * SIZE)  # the budget knows no limit
    tiers, (a, b, c, d) = device.tiers, [device.version(name) for name in "abcd"]
    e = device.version("e")
    a.running = 1
    assert tiers.place(a)
    assert tiers.place(b)
    assert tiers.has_room(c)
    assert not tiers.place(c)  # as much as the device has is taken
    assert "c is not placed beside 1024 bytes of others" in caplog.text
    assert (c.weights, c.staged is not None, tiers.resident) == (None, True, {a, b})
    assert tiers.place(c)  # it is known now that another has to go: b, since a runs
    assert (tiers.resident, device.evicted) == ({a, c}, ["b"])
    c.running = 1
    assert not tiers.has_room(d)
    assert tiers.in_the_way(d) == {a}
    assert tiers.next_in([d, b, e]) == [d, b]  # as many as could be together
    c.running = 0
    assert tiers.place(d)
    device.step()
    assert len(free_slots(device.placer)) == 8 - 2
    device.copies.free = 1 << 20  # another process is gone
    assert len(tiers.victims(b) or ()) == 1
    clock.now += SHORTAGE_S
    assert tiers.victims(b) == []
    assert tiers.place(b)
    assert tiers.resident == {a, d, b}


def test_what_is_alone_too_large_waits_and_is_tried_again(clock: Clock) -> None:
    device = Device(memory=SIZE - 1)
    tiers, a = device.tiers, device.version("a")
    assert not tiers.place(a)
    assert not tiers.has_room(a)
    assert tiers.next_in([a]) == []
    assert tiers.fits([a])  # requests wait for it: the budget says that it has a place
    device.copies.free = SIZE
    clock.now += SHORTAGE_S
    assert tiers.next_in([a]) == [a]
    assert tiers.place(a)


def test_memory_that_a_step_still_reads_comes_with_the_next_try() -> None:
    device = Device(memory=2 * SIZE, budget=2 * SIZE)
    tiers, (a, b, c) = device.tiers, [device.version(name) for name in "abc"]
    assert tiers.place(a)
    assert tiers.place(b)
    device.placer.flush()  # a step that has not run yet
    assert not tiers.place(c)
    assert device.evicted == ["a"]
    assert b.weights is not None
    assert not tiers.place(c)
    device.step()
    assert tiers.place(c)  # at once, and beside b
    assert (tiers.resident, device.evicted) == ({b, c}, ["a"])


def test_a_base_without_a_placer(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA with torch's kernels."""
    staged = TorchAdapter(
        {"q": ModuleDelta(ModuleKind.LINEAR, 4, torch.ones(1, 4), torch.ones(4, 1))}
    )
    backend: Any = SimpleNamespace(
        frozen=SimpleNamespace(device=torch.device("meta")), shares_host_memory=False
    )
    placed: Any = TorchBackend.place(backend, staged)
    assert placed.deltas["q"].a.is_meta
    TorchBackend.remove(backend, placed)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(TorchAdapter, "to", full)
    with pytest.raises(AdapterCapacityError, match="32 bytes"):
        TorchBackend.place(backend, staged)
