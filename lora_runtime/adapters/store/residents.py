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
        self._noted: dict[AdapterVersion, _Noted] = {}
        self._changes = 0
        self._sorted: tuple[int, tuple[ResidentAdapter, ...]] = (0, ())

    def note(self, version: AdapterVersion, pinned: bool) -> None:
        """Take up that a version has changed."""
        if version.weights is None and version.staged is None and not version.loading:
            if self._noted.pop(version, None) is None:
                return
        else:
            self._noted[version] = _Noted(version, pinned)
        self._changes += 1

    def report(self) -> tuple[ResidentAdapter, ...]:
        """Versions in slots, then those in host memory alone, then those being read, each in the
        order in which they came; the same object until they change."""
        changes, (of_changes, report) = self._changes, self._sorted
        if changes != of_changes:
            # `list` copies at once: no change comes in between.
            reports = [noted.report() for noted in list(self._noted.values())]
            report = tuple(sorted(reports, key=lambda one: _LEVELS[one.level]))
            self._sorted = changes, report
        return report


class _Noted:
    """A version since its last change. Its report waits for who asks: thousands of ids may come to
    one version, one after the other."""

    def __init__(self, version: AdapterVersion, pinned: bool) -> None:
        self._version, self._pinned = version, pinned
        self._report: ResidentAdapter | None = None

    def report(self) -> ResidentAdapter:
        if self._report is None:
            self._report = _report(self._version, self._pinned)
        return self._report


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
