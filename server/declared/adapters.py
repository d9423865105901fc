"""Declared adapters as the server uses them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import structlog

from lora_runtime import Registration

from .directory import WatchedDirectory
from .manifest import Manifest
from .places import Place
from .reconciler import Reconciler
from .state_file import StateFile
from .types import AdapterEngine, DeclaredStatus

log = structlog.get_logger("loramux.server")


class DeclaredAdapters:
    """Keeper of the engine's adapters as a manifest and a watched directory declare them.

    It keeps them over restarts too. `reconcile_s`: seconds between looks; `load_threads`: loads at
    once; `static_names`: names that the server's settings load, which a manifest must not declare
    again; `allow_unknown_fields`: those in `directory` for which Engine.load_adapter gets it.
    `on_changed` is called on any thread after each look and each change. `to_save`: what the
    state file keeps of a registration.
    """

    def __init__(
        self,
        engine: AdapterEngine,
        *,
        manifest: Path | None = None,
        directory: Path | None = None,
        state_file: Path | None = None,
        reconcile_s: float = 5,
        load_threads: int = 4,
        unload_wait_s: float = 5,
        static_names: Collection[str] = (),
        allow_unknown_fields: Collection[str] = (),
        on_changed: Callable[[], None] = lambda: None,
        to_save: Callable[[Registration], Registration] = lambda registration: registration,
    ) -> None:
        places: list[Place] = []
        if manifest is not None:
            places.append(Manifest(manifest, settle_s=reconcile_s))
        if directory is not None:
            places.append(WatchedDirectory(directory, reconcile_s, allow_unknown_fields))
        self._engine, self._static = engine, frozenset(static_names)
        self._was_ready = False
        self._state_file = None if state_file is None else StateFile(state_file, to_save=to_save)
        self._reconciler = Reconciler(
            engine,
            places,
            reconcile_s=reconcile_s,
            load_threads=load_threads,
            unload_wait_s=unload_wait_s,
            static_names=static_names,
            on_changed=on_changed,
            on_owned_changed=self._note_change,
        )

    def restore(self) -> None:
        """Register what the state file holds, and keep it up to date from now on.

        Raises StateFileError.
        """
        if self._state_file is not None:
            saved = self._state_file.restore(self._engine)
            ours = [
                r
                for r in saved.adapters
                if r.adapter_id in saved.declared and r.adapter_id not in self._static
            ]
            self._was_ready = saved.was_ready
            if saved.was_ready:
                log.info("this server was ready before: only what it served is waited for")
            self._reconciler.adopt(
                ours,
                [name for name, policy in saved.declared.items() if policy],
                saved.was_ready,
            )
            self._state_file.start(self._engine, self._declared, lambda: self._was_ready)

    def start(self) -> None:
        """Begin to look; after `restore`."""
        self._reconciler.start()

    def stop_following(self) -> None:
        """End the looking. What is loaded stays, and the state file is still written."""
        self._reconciler.stop()

    def stop(self) -> None:
        """End the looking and write the state file for the last time."""
        self._reconciler.stop()
        if self._state_file is not None:
            self._state_file.stop()

    def note_ready(self) -> None:
        """Note that the server is ready, for the state file: a restart asks less, see
        `Entry.is_awaited`."""
        self._was_ready = True
        self._note_change()

    @property
    def ready(self) -> bool:
        """True if every declared adapter has a version that serves."""
        return self._reconciler.ready

    @property
    def is_awaited(self) -> bool:
        """True while the server cannot be ready because of what is declared."""
        return self._reconciler.is_awaited

    def awaited(self) -> list[DeclaredStatus]:
        """Status of what the server waits for to be ready, as `status` gives it."""
        return self._reconciler.awaited()

    def status(self) -> list[DeclaredStatus]:
        """Status of each declared adapter, sorted by name; first, without a name, the places that
        cannot be read."""
        return self._reconciler.status()

    def _declared(self) -> dict[str, bool]:
        return dict.fromkeys(self._static, False) | self._reconciler.owned()

    def _note_change(self) -> None:
        if self._state_file is not None:
            self._state_file.on_registrations_changed()
