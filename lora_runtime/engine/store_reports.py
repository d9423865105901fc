"""What the store has to say, passed on to the engine thread and to observers."""

from __future__ import annotations

from collections.abc import Sequence

from ..adapters.store.events import StoreListener
from ..adapters.store.version import AdapterVersion
from ..api.adapters import AdapterInfo
from .inbox import Inbox
from .observers import Observers


class StoreReports(StoreListener):
    """For any thread, without the store's lock."""

    def __init__(self, inbox: Inbox, observers: Observers) -> None:
        self._inbox, self._observers = inbox, observers

    def adapter_loaded(self, info: AdapterInfo, seconds: float) -> None:
        self._inbox.post(lambda mail: setattr(mail, "adapter_arrived", True))
        self._observers.notify("on_adapter_loaded", info, seconds)

    def adapter_failed(self, versions: Sequence[AdapterVersion], error: Exception) -> None:
        self._inbox.post(lambda mail: mail.failed.append((versions, error)))
        self._observers.notify("on_adapter_failed", versions[0].adapter_id, error)

    def adapter_evicted(self, version: AdapterVersion, info: AdapterInfo, reason: str) -> None:
        self._observers.notify("on_adapter_evicted", info, reason)

    def adapter_out_of_service(self, version: AdapterVersion, info: AdapterInfo) -> None:
        self._observers.notify("on_adapter_out_of_service", info)

    def adapter_forgotten(self, version: AdapterVersion) -> None:
        self._inbox.post(lambda mail: mail.forgotten.append(version))

    def registrations_changed(self) -> None:
        self._observers.notify("on_registrations_changed")
