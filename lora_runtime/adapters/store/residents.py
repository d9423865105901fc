"""The report of what is in slots, in host memory, or on its way there."""

from __future__ import annotations

from ...api.adapters import AdapterState
from ...api.reports import ResidentAdapter
from .version import AdapterVersion

_LEVELS = {AdapterState.DEVICE: 0, AdapterState.HOST: 1, AdapterState.LOADING: 2}


class Residents:
    """What routers ask for many times a second: changes are noted as they come, under the
    registry's lock, and reading them takes none."""

    def __init__(self) -> None:
        self._reports: dict[AdapterVersion, ResidentAdapter] = {}
        self._changes = 0
        self._sorted: tuple[int, tuple[ResidentAdapter, ...]] = (0, ())

    def note(self, version: AdapterVersion, pinned: bool) -> None:
        """Take up what has changed of a version, as it is now."""
        if version.weights is None and version.staged is None and not version.loading:
            if self._reports.pop(version, None) is None:
                return
        else:
            self._reports[version] = _report(version, pinned)
        self._changes += 1

    def report(self) -> tuple[ResidentAdapter, ...]:
        """Versions in slots, then those in host memory alone, then those being read, each in the
        order of ids; the same object until they change."""
        changes, (of_changes, report) = self._changes, self._sorted
        if changes != of_changes:
            # `sorted` copies first, at once: no change comes in between.
            report = tuple(sorted(self._reports.values(), key=_order))
            self._sorted = changes, report
        return report


def _order(adapter: ResidentAdapter) -> tuple[int, tuple[str, ...], str]:
    return _LEVELS[adapter.level], adapter.adapter_ids, adapter.version


def _report(version: AdapterVersion, pinned: bool) -> ResidentAdapter:
    level = AdapterState.LOADING if version.staged is None else AdapterState.HOST
    return ResidentAdapter(
        version=version.version,
        adapter_ids=tuple(sorted(version.ids)),
        level=level if version.weights is None else AdapterState.DEVICE,
        staged=version.staged is not None,
        in_service=not version.fault,
        pinned=pinned,
        rank=version.details.rank if version.details else 0,
        num_bytes=version.device_bytes,
        host_bytes=version.host_bytes,
    )
