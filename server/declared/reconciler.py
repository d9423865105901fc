"""Reconciler that makes the engine serve what is declared: it looks, loads, unloads, tries again."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import structlog

from lora_runtime import (
    AdapterInUseError,
    AdapterPolicy,
    LoramuxError,
    Registration,
    UnknownAdapterError,
    is_remote,
    redact,
)

from . import journal
from .entry import Action, Entry, files_changed
from .places import Place, Places
from .types import AdapterEngine, Declared, DeclaredStatus, Reading
from .workers import Workers

log = structlog.get_logger("loramux.server")
_UNLOAD_THREADS = 4


class Reconciler:
    """Reconciler of one engine.

    A thread looks; few threads load, and others wait for requests on what is to go.
    """

    def __init__(
        self,
        engine: AdapterEngine,
        places: Sequence[Place],
        *,
        reconcile_s: float,
        load_threads: int,
        unload_wait_s: float,
        static_names: Collection[str] = (),
        on_changed: Callable[[], None] = lambda: None,
        on_owned_changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._static = engine, frozenset(static_names)
        self._reconcile_s, self._unload_wait_s, self._clock = reconcile_s, unload_wait_s, clock
        self._on_changed, self._on_owned_changed = on_changed, on_owned_changed
        self._lock = threading.Condition()
        self._entries: dict[str, Entry] = {}
        self._places = Places(places)
        self._again = False
        """True if an earlier process of this server was ready."""
        self._telling = threading.Lock()
        self._stopping = threading.Event()
        self._loaders = Workers("loramux-declared-load", load_threads)
        self._removers = Workers("loramux-declared-unload", _UNLOAD_THREADS)
        self._thread = threading.Thread(target=self._run, name="loramux-declared", daemon=True)

    def adopt(
        self,
        registrations: Iterable[Registration],
        with_policy: Collection[str] = (),
        was_ready: bool = False,
    ) -> None:
        """Adopt names that an earlier process declared and the engine has again: they go if they
        are no longer declared.

        A name whose fetched copies are still there serves, so that an outage of its store does not
        keep the server from being ready. A local directory does not: it may hold something else by
        now, and no outage hinders its load. `was_ready`: that process was; see `Entry.is_awaited`.
        """
        self._again = was_ready
        for registration in registrations:
            name, current = registration.adapter_id, registration.versions[0]
            newest = registration.canary or current
            entry = self._entries[name] = Entry(name, newest.source)
            entry.owned = entry.served_before = True
            entry.has_policy = name in with_policy
            if all(is_remote(v.source) and Path(v.directory).is_dir() for v in (current, newest)):
                entry.version = current.version

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop without waiting for loads that run; afterwards nothing calls back."""
        with self._telling:
            self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._loaders.stop()
        self._removers.stop()

    @property
    def ready(self) -> bool:
        """True if every declared adapter has a version that serves."""
        with self._lock:
            return self._places.complete and all(e.serves for e in self._entries.values())

    @property
    def is_awaited(self) -> bool:
        """True while the server cannot be ready because of what is declared."""
        with self._lock:
            return bool(self._places.awaited(self._again)) or any(
                entry.is_awaited(self._again) for entry in self._entries.values()
            )

    def awaited(self) -> list[DeclaredStatus]:
        """Status of what the server waits for to be ready, as `status` gives it."""
        with self._lock:
            entries = [self._entries[name] for name in sorted(self._entries)]
            waiting = [e.status(e.version) for e in entries if e.is_awaited(self._again)]
            return [*self._places.awaited(self._again), *waiting]

    def status(self) -> list[DeclaredStatus]:
        versions = self._versions()
        with self._lock:
            entries = [
                self._entries[name].status(versions.get(name, "")) for name in sorted(self._entries)
            ]
            return [*self._places.problems(), *entries]

    def owned(self) -> dict[str, bool]:
        """Names that the engine has by declaration → whether their policies were declared, too."""
        with self._lock:
            return {name: entry.has_policy for name, entry in self._entries.items() if entry.owned}

    def reconcile(self) -> None:
        """Look once and begin what is to be done."""
        self._find_vanished()
        readings = self._places.read()
        with self._lock:
            self._merge(readings)
            work = [
                (entry, action)
                for entry in list(self._entries.values())
                if (action := self._begin(entry))
            ]
            for entry in self._entries.values():
                journal.note(entry)
        for entry, action in work:
            if action is Action.LOAD:
                assert entry.wanted is not None
                self._loaders.submit(
                    partial(self._load, entry, entry.wanted, entry.policy(entry.wanted))
                )
            else:
                self._removers.submit(partial(self._unload, entry))
        self._tell()

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until nothing that was begun still runs; False after `timeout_s` seconds."""
        with self._lock:
            return self._lock.wait_for(
                lambda: not any(e.busy for e in self._entries.values()), timeout_s
            )

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.reconcile()
            except BaseException:  # this thread is all that looks
                log.exception("looking for declared adapters failed")
            self._stopping.wait(self._reconcile_s)

    def _begin(self, entry: Entry) -> Action | None:
        action = entry.next(self._clock())
        if action is Action.FORGET:
            del self._entries[entry.name]
            journal.note_gone(entry.name)
            return None
        if action is not None:
            entry.begin(action)
        return action

    def _find_vanished(self) -> None:
        """Find what was unloaded by somebody else, so that it is loaded again."""
        with self._lock:
            loaded = [entry for entry in self._entries.values() if entry.version and not entry.busy]
        versions = self._versions() if loaded else {}
        with self._lock:
            for entry in loaded:
                if entry.name not in versions and not entry.busy:
                    entry.forget_load()

    def _versions(self) -> dict[str, str]:
        """Versions that serve, by id; of all that the engine has."""
        return {r.adapter_id: r.versions[0].version for r in self._engine.registrations()}

    def _merge(self, readings: Sequence[Reading]) -> None:
        self._places.note(readings)
        counts = Counter(name for reading in readings for name in reading.adapters)
        counts.update(name for reading in readings for name in reading.duplicates)
        counts.update(name for name in self._static if name in counts)
        wanted = {
            name: declared for reading in readings for name, declared in reading.adapters.items()
        }
        for name, declared in wanted.items():
            entry = self._entries.setdefault(name, Entry(name, declared.source))
            entry.known = True
            if counts[name] > 1:  # what was wanted before the name became ambiguous goes on
                entry.conflict = "the name is declared more than once"
            else:
                entry.want(declared)
        for name, entry in self._entries.items():
            # What an unreadable place may declare is not taken away.
            if name not in wanted and (entry.known or self._places.complete):
                entry.conflict, entry.wanted, entry.known = "", None, True
                entry.owned = entry.owned and name not in self._static

    def _load(self, entry: Entry, wanted: Declared, policy: AdapterPolicy | None) -> None:
        try:
            info = self._engine.load_adapter(
                wanted.source,
                entry.name,
                canary_weight=wanted.canary_weight,
                policy=policy,
                allow_unknown_fields=wanted.allow_unknown_fields,
            )
        except BaseException as error:  # a panic in a library too: the entry must not stay busy
            text, torn = _explain(error, entry.name), files_changed(wanted)
            with self._changed(entry):
                entry.loading_failed(text, self._clock(), torn)
        else:
            with self._changed(entry):
                entry.loading_done(wanted, info.version)
            self._on_owned_changed()
        self._tell()

    def _unload(self, entry: Entry) -> None:
        failure: BaseException | None = None
        try:
            with contextlib.suppress(UnknownAdapterError):  # unloaded by somebody else
                self._engine.unload_adapter(entry.name, self._unload_wait_s)
        except BaseException as error:
            failure = error
        with self._changed(entry):
            if failure is None:
                entry.removing_done()
            else:
                text = _explain(failure, entry.name)
                entry.removing_failed(text, self._clock(), isinstance(failure, AdapterInUseError))
        if failure is None:
            self._on_owned_changed()
        self._tell()

    @contextlib.contextmanager
    def _changed(self, entry: Entry) -> Iterator[None]:
        with self._lock:
            yield
            journal.note(entry)
            self._lock.notify_all()

    def _tell(self) -> None:
        """Call back after a look or a change, one call at a time and outside of the lock."""
        with self._telling:
            if not self._stopping.is_set():
                self._on_changed()


def _explain(error: BaseException, name: str) -> str:
    """Explain an error in the words of the status."""
    if isinstance(error, LoramuxError):
        return str(error)
    log.error("unexpected failure of a declared adapter", adapter=name, exc_info=error)
    return redact(f"{type(error).__name__}: {error}")
