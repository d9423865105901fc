"""Policies of the settings, which stand for adapters that may not be there yet."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace

import structlog

from lora_runtime import (
    AdapterCapacityError,
    AdapterPolicy,
    Engine,
    EngineObserver,
    Registration,
    UnknownAdapterError,
)

log = structlog.get_logger("loramux.server")
_NO_ADAPTERS = ("", "*")


class SettingsPolicies(EngineObserver):
    """Observer that gives an id its policy when it appears, unless it comes with one of its own.

    An id's own is a call's, the manifest's, or one remembered over a restart. Later changes are
    left alone.
    """

    def __init__(self, engine: Engine, policies: Mapping[str, AdapterPolicy]) -> None:
        """Set the policies of the base and of all other ids ("*") at once; others when they appear."""
        self._engine = engine
        self._policies = {name: p for name, p in policies.items() if name not in _NO_ADAPTERS}
        self._seen: set[str] = set()
        self._given: set[str] = set()
        self._lock = threading.Lock()
        for name in _NO_ADAPTERS:
            if name in policies:
                engine.set_policy(name, policies[name])

    def on_registrations_changed(self) -> None:
        with self._lock:
            here = {name for name in self._policies if self._is_registered(name)}
            new, self._seen = here - self._seen, here
            self._given &= here
        if new:  # not for every change: the list of all ids may be long
            own = {r.adapter_id for r in self._engine.registrations() if r.policy is not None}
            for name in sorted(new - own):
                self._set(name)

    def without_own(self, registration: Registration) -> Registration:
        """Strip a registration of a policy of the settings, for a file that outlives them: other
        settings must not find it as the id's own."""
        name = registration.adapter_id
        with self._lock:
            ours = name in self._given and registration.policy == self._policies[name]
        return replace(registration, policy=None) if ours else registration

    def _is_registered(self, name: str) -> bool:
        try:
            self._engine.get_adapter(name)
        except UnknownAdapterError:
            return False
        return True

    def _set(self, name: str) -> None:
        with self._lock:
            self._given.add(name)
        try:
            self._engine.set_policy(name, self._policies[name])
        except UnknownAdapterError:
            pass  # gone again
        except AdapterCapacityError as error:
            log.error("policy of the settings cannot be set", adapter=name, error=str(error))
