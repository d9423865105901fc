"""What an adapter is beside a base's forward, staged and placed, and what is asked of the base for
that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ..modules import BaseDescription
from .peft.update import ModuleUpdate


class DeviceAdapter(Protocol):
    """An adapter on the device; `num_bytes` there."""

    num_bytes: int


class StagedAdapter(Protocol):
    """An adapter ready in host memory; `AdapterHost.place_adapter` makes a DeviceAdapter of
    `num_bytes` of it."""

    num_bytes: int
    host_bytes: int
    """What it takes where it is."""


class AdapterHost(BaseDescription, Protocol):
    """A base that takes adapters. For any thread, beside steps."""

    @property
    def shares_host_memory(self) -> bool:
        """A placed adapter is its staged copy, and takes no memory beside it."""

    def stage_adapter(self, updates: Mapping[str, ModuleUpdate]) -> StagedAdapter:
        """The adapter as the base's forward reads it, in host memory. Raises AdapterError,
        AdapterCapacityError."""

    def place_adapter(self, staged: StagedAdapter) -> DeviceAdapter:
        """The adapter on the device; never waits. Raises AdapterCapacityError where the device has
        no room for it."""

    def remove_adapter(self, adapter: DeviceAdapter) -> None:
        """Take it off the device; no step that is planned from now on has it."""
