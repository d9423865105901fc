"""How a step's rows take adapters from the slot table: what fused linear maps read while a forward runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

import torch

from ...kernels import Kernels
from ...kernels.fused_update import ModuleGroup
from ...kernels.plan import LoraPlan
from ...kernels.slot_table import SlotTable
from .placement import SlotAdapter

if TYPE_CHECKING:
    from ...base_model import BaseModel


class Side(Protocol):
    """A second stream of work beside the step's own."""

    def fork(self) -> AbstractContextManager[None]:
        """What is enqueued inside starts after what was enqueued before, and runs beside what comes behind it."""

    def join(self) -> None:
        """What is enqueued from now on starts after what was enqueued inside."""


class HostSide:
    """Of a CPU: one thing after the other."""

    def fork(self) -> AbstractContextManager[None]:
        return nullcontext()

    def join(self) -> None:
        """It is done already."""


class CudaSide:
    """Inside a capture it becomes a branch of the graph. What it reads must live until `join`."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    @contextmanager
    def fork(self) -> Iterator[None]:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield

    def join(self) -> None:
        torch.cuda.current_stream(self._device).wait_stream(self._stream)


def side_of(device: torch.device) -> Side:
    return CudaSide(device) if device.type == "cuda" else HostSide()


@dataclass(frozen=True)
class LinearCall:
    """One call of fused linear maps: their place in the table, their names, the layer (None: behind all layers)."""

    group: ModuleGroup
    names: tuple[str, ...]
    layer: int | None
    head: bool
    """It is the lm_head, and gets the rows that sample."""


@dataclass(frozen=True)
class LoraStep:
    """`plan`: of all rows; `head`: of the rows that sample, which the lm_head gets; None where no adapter is theirs."""

    kernels: Kernels
    table: SlotTable
    plan: LoraPlan | None
    head: LoraPlan | None
    touched: Collection[str] | None = None
    """Modules that the step's adapters change; None where that may be any, as in a graph that outlives them."""
    arriving: Sequence[SlotAdapter] = ()
    """Adapters whose copies to the device may still be on their way."""
    side: Side | None = None
    """Where A x is computed, beside the base's product; None: after it."""

    @classmethod
    def of(cls, base: BaseModel, plan: LoraPlan | None, head: LoraPlan | None, touched: Collection[str] | None = None,
           arriving: Sequence[SlotAdapter] = (), side: Side | None = None) -> Self:
        """With the base's slots."""
        assert base.placer is not None
        return cls(base.state.kernels, base.placer.table, plan, head, touched, arriving, side)

    def begin(self, x: torch.Tensor, call: LinearCall) -> None:
        """Before the base's product of `x` (T, in)."""
        if self.side is None or (plan := self._plan_of(call)) is None:
            return
        self._wait(call)
        assert self.kernels.shrink is not None
        with self.side.fork():
            self.kernels.shrink(x, call.group, plan, self.table)

    def finish(self, y: torch.Tensor, x: torch.Tensor, call: LinearCall) -> None:
        """After it: into `y` (T, sum of outs) in place."""
        if (plan := self._plan_of(call)) is None:
            return
        if self.side is not None:
            assert self.kernels.expand is not None
            self.side.join()
            self.kernels.expand(y, x, call.group, plan, self.table)
        else:
            self._wait(call)
            assert self.kernels.update_group is not None
            self.kernels.update_group(y, x, call.group, plan, self.table)

    def _plan_of(self, call: LinearCall) -> LoraPlan | None:
        """None where nothing is done: no kernel is launched then."""
        if self.touched is not None and not any(name in self.touched for name in call.names):
            return None
        return self.head if call.head else self.plan

    def _wait(self, call: LinearCall) -> None:
        for adapter in self.arriving:
            adapter.wait(call.layer)
