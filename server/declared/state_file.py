"""Registrations that survive a restart: a JSON file that follows the engine."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lora_runtime import EngineObserver, LoramuxError, Registration

from ..files import sync
from .types import AdapterEngine

log = structlog.get_logger("loramux.server")
_RETRY_S = 5.0


class StateFileError(Exception):
    """Error for a state file that is corrupt or cannot be read; the message names it."""


class Saved(BaseModel):
    """Content of the file.

    `declared`: names that are there because they were → whether their policies were, too.
    `was_ready`: the server was ready with them, in this process or an earlier one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    declared: dict[str, bool] = Field(default_factory=dict)
    adapters: tuple[Registration, ...] = ()
    was_ready: bool = False


class StateFile(EngineObserver):
    """Writer of the engine's registrations, `delay_s` after they change, on a thread of its own.

    Sources are written as they were given, credentials in URLs too: the file is readable by its
    owner alone.
    """

    def __init__(
        self,
        path: Path,
        delay_s: float = 0.5,
        to_save: Callable[[Registration], Registration] = lambda registration: registration,
    ) -> None:
        """Take the path. `to_save`: what is kept of a registration."""
        self._path, self._delay_s, self._to_save = path, delay_s, to_save
        self._changed, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def read(self) -> Saved:
        """Read the file; empty where there is none. Raises StateFileError."""
        try:
            return Saved.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return Saved()
        except OSError as error:
            raise StateFileError(
                f"state file {self._path} cannot be read: {error.strerror}"
            ) from error
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the file"
        # Not chained: pydantic's own text quotes sources.
        raise StateFileError(f"state file {self._path} is corrupt: {where}: {first['msg']}")

    def restore(self, engine: AdapterEngine) -> Saved:
        """Register what was saved, cold, except what the engine has already.

        Raises StateFileError.
        """
        saved, present = (
            self.read(),
            {registration.adapter_id for registration in engine.registrations()},
        )
        for registration in saved.adapters:
            if registration.adapter_id in present:
                continue
            if not registration.versions:
                raise StateFileError(
                    f"state file {self._path} is corrupt: adapter {registration.adapter_id!r} has no version"
                )
            try:
                engine.register(registration)
            except (LoramuxError, ValueError) as error:
                raise StateFileError(
                    f"state file {self._path}: adapter {registration.adapter_id!r}: {error}"
                ) from error
        return saved

    def start(
        self,
        engine: AdapterEngine,
        declared: Callable[[], dict[str, bool]],
        was_ready: Callable[[], bool] = lambda: False,
    ) -> None:
        """Follow the engine from now on. `declared`, `was_ready`: what `Saved` has under these
        names.

        Raises StateFileError when the file cannot be written.
        """

        def current() -> Saved:
            registrations = tuple(self._to_save(r) for r in engine.registrations())
            return Saved(adapters=registrations, declared=declared(), was_ready=was_ready())

        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write(current())
        except OSError as error:
            raise StateFileError(
                f"state file {self._path} cannot be written: {error.strerror}"
            ) from error
        engine.add_observer(self)
        self._thread = threading.Thread(
            target=self._run, args=(current,), name="loramux-state", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Write what has changed and end."""
        self._stopping.set()
        self._changed.set()
        if self._thread is not None:
            self._thread.join()

    def on_registrations_changed(self) -> None:
        self._changed.set()

    def _run(self, current: Callable[[], Saved]) -> None:
        written: Saved | None = None
        while not self._stopping.is_set() or self._changed.is_set():
            self._changed.wait()
            self._stopping.wait(self._delay_s)  # several changes are one write
            self._changed.clear()
            try:
                now = current()
                if now == written:
                    continue
                self._write(now)
                written = now
            except Exception as error:
                log.error(
                    "the state file cannot be written",
                    path=str(self._path),
                    error=getattr(error, "strerror", None) or str(error),
                )
                if not self._stopping.wait(_RETRY_S):
                    self._changed.set()

    def _write(self, saved: Saved) -> None:
        """Write the file so that readers, and a crash at any moment, find the old or the new one."""
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as stream:
            json.dump(saved.model_dump(mode="json"), stream, indent=1)
            stream.flush()
            os.fsync(descriptor)
        temporary.rename(self._path)
        sync(self._path.parent)
