"""An engine that only remembers, and adapter directories without weights that mean anything."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_runtime import (
    AdapterError,
    AdapterInfo,
    AdapterInUseError,
    AdapterPolicy,
    EngineObserver,
    RegisteredVersion,
    Registration,
    UnknownAdapterError,
)


class FakeEngine:
    """`broken`: sources that fail; `in_use`: ids that unload refuses; `gates`: sources that wait
    for their event."""

    def __init__(self) -> None:
        self.loaded: dict[str, Registration] = {}
        self.calls: list[tuple] = []
        self.broken: dict[str, Exception] = {}
        self.in_use: set[str] = set()
        self.gates: dict[str, threading.Event] = {}
        self._observers: list[EngineObserver] = []
        self._lock = threading.Lock()

    def load_adapter(
        self,
        source: str,
        adapter_id: str | None = None,
        *,
        canary_weight: float = 0,
        policy: AdapterPolicy | None = None,
        allow_unknown_fields: bool = False,
    ) -> AdapterInfo:
        assert adapter_id is not None
        with self._lock:
            self.calls.append(("load", adapter_id, source))
        if source in self.gates:
            assert self.gates[source].wait(20)
        if source in self.broken:
            raise self.broken[source]
        version = f"version of {weights(Path(source)) if Path(source).is_dir() else source}"
        self.register(
            Registration(adapter_id, (RegisteredVersion(version, source, source),), policy=policy)
        )
        return AdapterInfo(adapter_id, version, source, "", (), 0, 0, 0)

    def unload_adapter(self, adapter_id: str, timeout_s: float = 0) -> AdapterInfo:
        with self._lock:
            self.calls.append(("unload", adapter_id))
            if adapter_id in self.in_use:
                raise AdapterInUseError(f"adapter {adapter_id!r} is in use by 1 sequences")
            if adapter_id not in self.loaded:
                raise UnknownAdapterError(adapter_id)
            gone = self.loaded.pop(adapter_id)
        self._notify()
        return AdapterInfo(
            adapter_id, gone.versions[0].version, gone.versions[0].source, "", (), 0, 0, 0
        )

    def register(self, registration: Registration) -> None:
        with self._lock:
            self.loaded[registration.adapter_id] = registration
        self._notify()

    def registrations(self) -> list[Registration]:
        with self._lock:
            return [self.loaded[name] for name in sorted(self.loaded)]

    def add_observer(self, observer: EngineObserver) -> None:
        self._observers.append(observer)

    def _notify(self) -> None:
        for observer in self._observers:
            observer.on_registrations_changed()


def registration(name: str, source: str = "s", **fields: Any) -> Registration:
    return Registration(
        name, (RegisteredVersion(f"version of {source}", source, source),), **fields
    )


def broken(text: str = "broken") -> AdapterError:
    return AdapterError(text)


def put_adapter(directory: Path, content: str = "1") -> Path:
    """A whole adapter, as far as files go."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text("{}")
    (directory / "adapter_model.safetensors").write_text(content)
    return directory


def weights(directory: Path) -> str:
    return (directory / "adapter_model.safetensors").read_text()


def until(condition: Callable[[], object]) -> None:
    """Waits for what other threads do."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "what was waited for did not happen"
        time.sleep(0.005)


def replace(path: Path, content: str) -> None:
    """Other content under the same name, as editors and copies write it: never half of it."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(content)
    os.replace(temporary, path)
