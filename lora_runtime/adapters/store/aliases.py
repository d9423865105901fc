"""Adapter ids: each stands for the version that serves, perhaps with a canary beside it and a way
back."""

from __future__ import annotations

from collections.abc import Callable

from ...api.adapters import AdapterInfo, AdapterPolicy, CanaryInfo, RegisteredVersion, Registration
from ...errors import AdapterUnavailableError
from .version import AdapterVersion


class Alias:
    """An id, the versions that it stands for, its policy and its leases. Guarded by the registry's
    lock.

    What it means for a version is counted there: `refs`, `serving` and `pins` by `count`, `leases`
    as they are taken.
    """

    def __init__(
        self, adapter_id: str, current: AdapterVersion, policy: AdapterPolicy | None = None
    ) -> None:
        self.adapter_id = adapter_id
        self.current = current
        self.canary: AdapterVersion | None = None
        self.canary_weight = 0.0
        self.older: list[AdapterVersion] = []
        """Versions that can serve again, newest first."""
        self.policy = policy
        self.leases = 0
        self.unloading = False
        self._places = {current: current.places[0]}
        """Places that this id's versions were loaded from: other ids may have the same from
        elsewhere."""

    @classmethod
    def restored(
        cls,
        registration: Registration,
        known: Callable[[RegisteredVersion], AdapterVersion],
        keep: int,
    ) -> Alias:
        """The id as it was registered, with `keep` older versions at most; `known` finds or makes a
        version."""
        versions = [known(place) for place in registration.versions]
        alias = cls(registration.adapter_id, versions[0], registration.policy)
        alias.older = versions[1:][:keep]
        if registration.canary is not None:
            alias.canary, alias.canary_weight = (
                known(registration.canary),
                registration.canary_weight,
            )
            alias.came_from(alias.canary, registration.canary)
        for version, place in zip(versions, registration.versions, strict=True):
            alias.came_from(version, place)
        return alias

    @property
    def serving(self) -> list[AdapterVersion]:
        """Versions that new requests may get."""
        canary = self.canary
        return [self.current] if canary is None else [self.current, canary]

    @property
    def versions(self) -> list[AdapterVersion]:
        return [*self.serving, *self.older]

    def count(self, change: int) -> None:
        """Add (1) or take away (-1) what the id means for its versions."""
        pinned = self.policy is not None and self.policy.pinned
        for version in self.versions:
            version.refs += change
        for version in self.serving:
            (version.ids.add if change > 0 else version.ids.discard)(self.adapter_id)
            version.pins += change * pinned

    def pick(self, u: float) -> AdapterVersion:
        """The version for a request; `u` is drawn from [0, 1). One that is out of service only
        where there is no other."""
        drawn = self.canary if self.canary is not None and u < self.canary_weight else self.current
        return drawn if not drawn.fault else next((v for v in self.serving if not v.fault), drawn)

    def lease(self, version: AdapterVersion) -> None:
        """Count a request that is to be served by one of the versions."""
        self.leases += 1
        version.leases += 1

    def release(self, version: AdapterVersion) -> None:
        """End a lease."""
        self.leases -= 1
        version.leases -= 1
        assert self.leases >= 0 <= version.leases, "lease released twice"

    def came_from(self, version: AdapterVersion, place: RegisteredVersion) -> None:
        """Remember where a version was loaded from for this id."""
        self._places = {v: p for v, p in self._places.items() if v in self.versions} | {
            version: place
        }

    def publish(self, version: AdapterVersion, canary_weight: float, keep: int) -> None:
        """Give `version` all requests, or `canary_weight` of them; `keep` older versions stay
        known."""
        self.canary, self.canary_weight = None, 0.0
        if version is self.current:
            return
        if canary_weight:
            self.canary, self.canary_weight = version, canary_weight
            return
        self.older = [self.current, *(v for v in self.older if v not in (self.current, version))][
            :keep
        ]
        self.current = version

    def replaced_by_next(self) -> list[AdapterVersion]:
        """Versions that the next one takes the place of, as far as no other id pins them."""
        return [v for v in self.serving if v.pins <= 1]

    def target_of_rollback(self, version: str) -> AdapterVersion:
        """The newest older version that is in service, or the named one. Raises
        AdapterUnavailableError."""
        if not self.older:
            raise AdapterUnavailableError(
                f"adapter {self.adapter_id!r} has no older version to go back to", self.adapter_id
            )
        found = [v for v in self.older if not version or v.version == version]
        if not found:
            raise AdapterUnavailableError(
                f"adapter {self.adapter_id!r} has no older version {version!r}", self.adapter_id
            )
        in_service = [v for v in found if not v.fault]
        if not in_service:
            raise found[0].unavailable().of(self.adapter_id)
        return in_service[0]

    def info(self, default_policy: AdapterPolicy) -> AdapterInfo:
        version, details = self.current, self.current.details
        return AdapterInfo(
            adapter_id=self.adapter_id,
            version=version.version,
            source=self._place(version).source,
            base_model_name=details.base_model_name if details else "",
            modules=details.modules if details else (),
            num_bytes=version.device_bytes,
            leases=self.leases,
            loaded_at=version.loaded_at,
            state=version.state,
            policy=self.policy or default_policy,
            canary=self._canary_info(),
            older_versions=tuple(v.version for v in self.older),
            error=version.fault or version.error,
            notes=details.notes if details else (),
        )

    def registration(self) -> Registration:
        versions = tuple(self._place(v) for v in (self.current, *self.older))
        canary = self._place(self.canary) if self.canary else None
        return Registration(self.adapter_id, versions, canary, self.canary_weight, self.policy)

    def _place(self, version: AdapterVersion) -> RegisteredVersion:
        return self._places.get(version) or version.places[0]

    def _canary_info(self) -> CanaryInfo | None:
        canary = self.canary
        return CanaryInfo(canary.version, self.canary_weight, canary.fault) if canary else None
