"""What a scheduler is made with where no engine is around it."""

from __future__ import annotations

from collections.abc import Sequence

from lora_runtime.adapters.store.version import AdapterVersion


class NoSlots:
    """No sequence has an adapter in a slot."""

    def want(self, groups: Sequence[Sequence[AdapterVersion]]) -> set[AdapterVersion]:
        return set()

    def acquire(self, versions: Sequence[AdapterVersion]) -> bool:
        raise AssertionError("a sequence has an adapter in a slot")

    def release(self, versions: Sequence[AdapterVersion]) -> None:
        raise AssertionError("a sequence has an adapter in a slot")
