"""The report of what is in slots, in host memory, or on its way there."""

from __future__ import annotations

from ...api.adapters import AdapterState
from ...api.reports import ResidentAdapter
from .tiers import Tiers
from .version import AdapterVersion


class Residents:
    """Makes the report anew after a change only: routers ask for it many times a second. Guarded by
    the registry's lock, but for `known`."""

    def __init__(self) -> None:
        self.known: tuple[ResidentAdapter, ...] | None = None
        """The report, None after a change."""
        self._loading: set[AdapterVersion] = set()

    def forget(self) -> None:
        """Note that the report is true no more."""
        self.known = None

    def started_loading(self, version: AdapterVersion) -> None:
        self._loading.add(version)
        self.forget()

    def ended_loading(self, version: AdapterVersion) -> None:
        if not version.loading:
            self._loading.discard(version)
        self.forget()

    def report(self, tiers: Tiers) -> tuple[ResidentAdapter, ...]:
        """Make the report, unless nothing has changed: slots first, then host memory, then what is
        being loaded, each in the order of ids."""
        if self.known is None:
            versions = tiers.resident | tiers.hosted | self._loading
            reports = [_report(v, v in tiers.pinned) for v in versions]
            self.known = tuple(sorted(reports, key=_order))
        return self.known


_ORDER = (AdapterState.DEVICE, AdapterState.HOST, AdapterState.LOADING)


def _order(adapter: ResidentAdapter) -> tuple[int, tuple[str, ...], str]:
    return _ORDER.index(adapter.level), adapter.adapter_ids, adapter.version


def _report(version: AdapterVersion, pinned: bool) -> ResidentAdapter:
    level = AdapterState.HOST if version.staged is not None else AdapterState.LOADING
    return ResidentAdapter(
        version=version.version,
        adapter_ids=tuple(sorted(version.ids)),
        level=AdapterState.DEVICE if version.weights is not None else level,
        staged=version.staged is not None,
        in_service=not version.fault,
        pinned=pinned,
        rank=version.details.rank if version.details else 0,
        num_bytes=version.device_bytes,
        host_bytes=version.host_bytes,
    )
