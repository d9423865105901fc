"""Adapters as a base has them, staged and on its device, and the base as their host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from .peft.update import BaseDescription, ModuleUpdate


class DeviceAdapter(Protocol):
    """An adapter on the device; `num_bytes` there."""

    num_bytes: int


class StagedAdapter(Protocol):
    """An adapter ready in host memory; `AdapterHost.place_adapter` makes a DeviceAdapter of `num_bytes` of it."""

    num_bytes: int
    host_bytes: int
    """Bytes that it takes where it is."""


class AdapterHost(BaseDescription, Protocol):
    """A base that takes adapters. For any thread, beside steps."""

    @property
    def device(self) -> torch.device: ...

    @property
    def placer(self) -> object | None:
        """The slots of the device path; None where adapters need no copy, or are copied tensor by tensor."""

    def stage_adapter(self, updates: Mapping[str, ModuleUpdate]) -> StagedAdapter:
        """The adapter as the base's forward reads it, in host memory. Raises AdapterError, AdapterCapacityError."""

    def place_adapter(self, staged: StagedAdapter) -> DeviceAdapter:
        """The adapter on the device; never waits. Raises AdapterCapacityError where the device has no room for it."""

    def remove_adapter(self, adapter: DeviceAdapter) -> None:
        """Take it off the device; no step that is planned from now on has it."""
