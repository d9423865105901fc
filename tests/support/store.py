"""What an engine's adapter store has inside, for tests that cannot see it from outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_runtime import Engine
from lora_runtime.adapters.store.reading import ReadAdapter, Reader
from lora_runtime.adapters.store.version import AdapterVersion


def current_version(engine: Engine, adapter_id: str) -> AdapterVersion:
    """The version that serves the id, beside its canary."""
    return engine._store._registry.aliases[adapter_id].current


def known_versions(engine: Engine) -> list[AdapterVersion]:
    """All that an id knows, a request uses or a thread brings in."""
    return list(engine._store._registry.versions.values())


def seed_canaries(engine: Engine, seed: int) -> None:
    """Let the same requests go to canaries in every run."""
    engine._store._registry._random.seed(seed)


def before_reads(monkeypatch: pytest.MonkeyPatch, call: Callable[[Path], object]) -> None:
    """Call with each directory that is about to be read, on the thread that reads it."""
    read = Reader._read

    def watched(reader: Reader, source: str, directory: Path, *rest: Any) -> ReadAdapter:
        call(directory)
        return read(reader, source, directory, *rest)

    monkeypatch.setattr(Reader, "_read", watched)
