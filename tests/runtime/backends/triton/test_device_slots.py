"""An engine with the Triton backend whose device has little memory: answers stay right, and every
byte comes back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lora_runtime import AdapterState, BaseModel, Engine, EngineConfig, Request, SamplingParams
from lora_runtime.adapters.store import tiers
from lora_runtime.backends.streams import HostCopyStream

from ....support.backends import fused_of
from ....support.device_path import load_base
from ....support.engines import wait_until_idle

SHORT = SamplingParams(max_new_tokens=5, ignore_eos=True)


class SmallDevice(HostCopyStream):
    """Has `free` bytes for adapters; what is released is poisoned, as if it had gone to someone
    else."""

    def __init__(self, free: int) -> None:
        super().__init__(torch.device("cpu"))
        self.free = free
        self.refused = 0

    def allocate(self, num_bytes: int) -> torch.Tensor:
        if num_bytes > self.free:
            self.refused += 1
            raise torch.OutOfMemoryError("full")
        self.free -= num_bytes
        return super().allocate(num_bytes).fill_(0xFF)

    def release(self, buffer: torch.Tensor) -> None:
        self.free += buffer.nbytes
        buffer.fill_(0xFF)


@pytest.fixture(scope="module")
def answers(tiny_base: Path, tiny_adapters: dict[str, Path]) -> dict[str, str]:
    """Of every adapter, from the torch backend."""
    config = EngineConfig(device="cpu", dtype="float32", kernels="torch", kv_cache_bytes=1 << 20)
    with Engine(tiny_base, config) as engine:
        for name, path in tiny_adapters.items():
            engine.load_adapter(path, name)
        return {name: engine.generate(ask(name)).text for name in tiny_adapters}


def ask(adapter_id: str) -> Request:
    return Request(prompt="a prompt", adapter_id=adapter_id, sampling=SHORT)


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> BaseModel:
    return load_base(tiny_base, "reference", 3)


@pytest.fixture
def engine(base: BaseModel) -> Iterator[Engine]:
    config = EngineConfig(
        kv_cache_bytes=1 << 20, max_adapters=3, max_running=8, max_batch_tokens=64
    )
    with Engine(base, config) as engine:
        yield engine


def small(engine: Engine, free: int) -> SmallDevice:
    placer = fused_of(engine.base).placer
    assert placer is not None
    placer.copies = device = SmallDevice(free)
    return device


def test_slots_of_their_own(
    engine: Engine, tiny_adapters: dict[str, Path], answers: dict[str, str]
) -> None:
    device = small(engine, 1 << 30)
    sizes = {
        name: engine.load_adapter(path, name).num_bytes for name, path in tiny_adapters.items()
    }
    handles = [
        (name, engine.submit(ask(name))) for _ in range(2) for name in sorted(answers, reverse=True)
    ]
    assert [h.result().text for _, h in handles] == [answers[name] for name, _ in handles]
    stats = wait_until_idle(engine)
    assert (1 << 30) - device.free == stats.adapter_bytes
    assert (stats.adapters, stats.host_adapter_bytes) == (3, sum(sizes.values()))
    for name in answers:
        engine.unload_adapter(name)
    assert device.free == 1 << 30
    assert fused_of(engine.base).placer is not None
    fused_of(engine.base).placer.flush()
    assert not fused_of(engine.base).placer.table.addresses.any()


def test_less_memory_than_the_budget_says(
    engine: Engine,
    tiny_adapters: dict[str, Path],
    answers: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There are three slots, and memory for one or two adapters."""
    monkeypatch.setattr(tiers, "SHORTAGE_S", 0.1)
    sizes = {
        name: engine.load_adapter(path, name).num_bytes for name, path in tiny_adapters.items()
    }
    for name in answers:
        engine.unload_adapter(name)
    device = small(engine, capacity := max(sizes.values()))
    for name, path in tiny_adapters.items():  # what has no room stays in host memory
        assert engine.load_adapter(path, name).state in (AdapterState.DEVICE, AdapterState.HOST)
    handles = [(name, engine.submit(ask(name))) for _ in range(3) for name in answers]
    assert [h.result().text for _, h in handles] == [answers[name] for name, _ in handles]
    assert device.refused
    assert wait_until_idle(engine).adapter_bytes == capacity - device.free
    for name in answers:
        engine.unload_adapter(name)
    assert device.free == capacity


def test_engines_share_the_slots_of_a_base(
    engine: Engine, tiny_adapters: dict[str, Path], answers: dict[str, str]
) -> None:
    device = small(engine, 1 << 30)
    config = engine.config
    with Engine(engine.base, config) as other:
        for each in (engine, other):
            for name in ("a0", "a1"):
                each.load_adapter(tiny_adapters[name], name)
        assert other.stats().adapters == 1  # the third slot
        assert [e.generate(ask(n)).text for e in (engine, other) for n in ("a0", "a1")] == [
            answers["a0"],
            answers["a1"],
        ] * 2
    assert (
        1 << 30
    ) - device.free == engine.stats().adapter_bytes  # the other's came back with its end
    with pytest.raises(ValueError, match="max_adapters 4"):
        Engine(engine.base, EngineConfig(max_adapters=4, kv_cache_bytes=1 << 20))


def test_the_first_engine_that_wants_slots_makes_them(
    tiny_base: Path, tiny_adapters: dict[str, Path], answers: dict[str, str]
) -> None:
    base = load_base(tiny_base, "reference")
    config = EngineConfig(kv_cache_bytes=1 << 20, max_running=8, max_batch_tokens=64)
    with (
        Engine(base, replace(config, max_adapters=0)) as plain,
        Engine(base, replace(config, max_adapters=2)) as engine,
    ):
        alone = plain.generate(ask("")).text
        for name in answers:
            engine.load_adapter(tiny_adapters[name], name)
        assert {name: engine.generate(ask(name)).text for name in answers} == answers
        assert engine.generate(ask("")).text == plain.generate(ask("")).text == alone
        with pytest.raises(ValueError, match="made for 2 adapters"):
            Engine(base, replace(config, max_adapters=3))
