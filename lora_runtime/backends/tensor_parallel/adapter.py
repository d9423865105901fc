"""An adapter in parts, as rank 0 holds it: its own part, and the number that the workers know."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...kernels.updates import ModuleDelta
from ...modules import BaseModule
from ..torch.adapter import TorchAdapter
from .shard_plan import ShardPlan


class ShardedAdapter(TorchAdapter):
    """Rank 0's part of an adapter.

    `num_bytes` is its own: no rank has a larger one, so budgets in bytes hold on each.
    """

    def __init__(self, deltas: Mapping[str, ModuleDelta], number: int) -> None:
        super().__init__(deltas)
        self.number = number

    def to(self, device: torch.device) -> ShardedAdapter:
        return ShardedAdapter(super().to(device).deltas, self.number)


def part_of(
    deltas: Mapping[str, ModuleDelta], plan: ShardPlan, modules: Mapping[str, BaseModule], rank: int
) -> dict[str, ModuleDelta]:
    """The rank's part of an adapter; modules that it has no part in are left out."""
    parts = {name: plan.shard(delta, name, modules[name], rank) for name, delta in deltas.items()}
    return {name: part for name, part in parts.items() if part.tensors()}
