"""Fixtures that several folders share. Models are made once per session."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from lora_runtime import Engine, EngineConfig

from .support.adapters import save_adapter
from .support.bases import opened_once, share
from .support.models import save_base

torch.set_num_threads(2)
settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")


def pytest_collection_finish() -> None:
    """What the libraries keep is left out of garbage collections, which take a third of a second with it."""
    gc.freeze()


def pytest_unconfigure() -> None:
    """The end frees it: libraries tell of objects that it does not find."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama."""
    return share(save_base(tmp_path_factory.mktemp("models") / "tiny-llama"))


@pytest.fixture(scope="session")
def tiny_adapters(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Eight adapters a0 ... a7 of the tiny Llama, of different ranks."""
    root = tmp_path_factory.mktemp("adapters")
    targets = ["q_proj", "v_proj", "up_proj"]
    return {
        f"a{i}": save_adapter(tiny_base, root / f"a{i}", seed=i, r=i + 1, target_modules=targets)
        for i in range(8)
    }


@pytest.fixture
def make_engine(tiny_base: Path) -> Iterator[Callable[..., Engine]]:
    """Starts engines on the tiny Llama in float32; stops them at the end."""
    engines = []

    def make(**config: object) -> Engine:
        defaults: dict = {
            "dtype": "float32",
            "kv_cache_bytes": 8 << 20,
            "max_running": 16,
            "max_batch_tokens": 128,
        }
        with opened_once():
            engine = Engine(tiny_base, EngineConfig(**(defaults | config)))
        engine.start()
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.shutdown()


@pytest.fixture
def engine(make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]) -> Engine:
    """An engine with the eight tiny adapters."""
    engine = make_engine()
    for name, path in tiny_adapters.items():
        engine.load_adapter(path, name)
    return engine
