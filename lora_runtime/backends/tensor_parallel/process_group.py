"""One rank of the group: how it joins, and how its part of the base is loaded."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from transformers.distributed import DistributedConfig, mixin
from transformers.distributed.utils import TransformersDeviceMesh

from . import styles
from .shard_plan import ShardPlan

_TIMEOUT = timedelta(minutes=10)
"""Patience with a rank that hangs; one that dies is noticed at once."""
_INTERFACE, _LOOPBACK = "GLOO_SOCKET_IFNAME", "lo"


@dataclass(frozen=True)
class Member:
    """A rank of the process group.

    `device`: cpu or cuda, of which rank i takes number i; `store`: the file through which the ranks
    meet.
    """

    rank: int
    plan: ShardPlan
    device: str
    store: str

    @property
    def world(self) -> int:
        return self.plan.world

    def join(self) -> None:
        """Join the group; returns once all ranks have come.

        All are on this machine: gloo listens on the loopback only.
        """
        styles.register()
        # transformers reads here which device is this rank's.
        os.environ["LOCAL_RANK"] = str(self.rank)
        if self.device == "cuda":
            torch.cuda.set_device(self.rank)
        with _loopback():
            dist.init_process_group(
                "nccl" if self.device == "cuda" else "gloo",
                store=dist.FileStore(self.store, self.world),
                rank=self.rank,
                world_size=self.world,
                timeout=_TIMEOUT,
                device_id=torch.device("cuda", self.rank) if self.device == "cuda" else None,
            )

    @contextmanager
    def loading(self) -> Iterator[dict[str, Any]]:
        """Give from_pretrained's arguments; while entered, it reads this rank's part of every
        tensor."""
        distributed = DistributedConfig(tp_size=self.world, tp_plan=self.plan.overrides)
        with _loopback(), self._mesh():
            yield {"distributed_config": distributed}

    def leave(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    @property
    def hook(self) -> Any:
        """Hook of linear maps for hooks.attach: its `linear`."""
        return partial(styles.attach_linear, self.plan, self.rank)

    @contextmanager
    def _mesh(self) -> Iterator[None]:
        """Lay transformers' mesh over CPUs where the settings say cpu: by itself it takes the
        machine's accelerators."""
        if self.device != "cpu":
            yield
            return

        def on_cpu(
            distributed_config: DistributedConfig,
        ) -> tuple[torch.device | None, TransformersDeviceMesh | None]:
            dense, expert = (
                init_device_mesh(
                    "cpu", (1, 1, 1, self.world), mesh_dim_names=("pp", "dp_replicate", *names)
                )
                for names in (("fsdp", "tp"), ("efsdp", "ep"))
            )
            return torch.device("cpu"), TransformersDeviceMesh(dense, expert)

        theirs: Any = mixin.initialize_distributed_mesh
        mixin.initialize_distributed_mesh = on_cpu
        try:
            yield
        finally:
            mixin.initialize_distributed_mesh = theirs


@contextmanager
def _loopback() -> Iterator[None]:
    """Let gloo take the loopback: by itself it takes the address of this host's name."""
    if _INTERFACE in os.environ or _LOOPBACK not in (name for _, name in socket.if_nameindex()):
        yield
        return
    os.environ[_INTERFACE] = _LOOPBACK
    try:
        yield
    finally:
        del os.environ[_INTERFACE]
