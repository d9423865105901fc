"""A frozen model as the Triton backend computes it: linear maps fused, adapters in slots."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ...kernels import PlannedKernels
from ...kernels.plan import LoraPlan
from ...model.frozen import FrozenModel
from ..streams import copy_stream
from .fused import fuse
from .lora_step import LoraContext, LoraStep, Overlap
from .placement import Placer, SlotAdapter


class FusedModel:
    """Frozen model with fused linear maps and slots for adapters.

    `linears`: the linear maps as they are computed, in the order of the slot table. `host_reads`:
    why the forward cannot be captured as a CUDA graph. `fused_error`: what computing projections of
    one input together made of the logits, a relative root-mean-square.
    """

    def __init__(self, frozen: FrozenModel) -> None:
        """Fuse `frozen`, which uses the Triton backend's kernels.

        Raises BaseModelError if fused projections give other logits.
        """
        self.frozen = frozen
        self.lora = LoraContext()
        self.linears, self.host_reads, self.fused_error = fuse(
            frozen.model, frozen.modules, frozen.context, self.lora, frozen.dry_run
        )
        self.placer = self._placer(0)
        """The slots: 0 of them before `open_slots`, nor where the base takes no adapters."""

    @property
    def kernels(self) -> PlannedKernels:
        """The kernels that steps run with."""
        kernels = self.frozen.context.kernels
        assert isinstance(kernels, PlannedKernels)
        return kernels

    def open_slots(self, slots: int) -> None:
        """Make room for `slots` adapters.

        Raises ValueError when there are slots already, and fewer.
        """
        if not self.frozen.takes_adapters or slots <= self.placer.slots:
            return
        if self.placer.slots == 0:
            self.placer = self._placer(slots)
        else:
            raise ValueError(
                f"max_adapters {slots}: the base's slots were made for {self.placer.slots} adapters"
            )

    def _placer(self, slots: int) -> Placer:
        modules = {
            name: self.frozen.modules[name] for linear in self.linears for name in linear.names
        }
        return Placer(modules, slots, self.frozen.dtype, copy_stream(self.frozen.device))

    def lora_step(
        self,
        plan: LoraPlan | None,
        head: LoraPlan | None,
        touched: Collection[str] | None = None,
        arriving: Sequence[SlotAdapter] = (),
        overlap: Overlap | None = None,
    ) -> LoraStep:
        """A step's adapters, from the slots; the arguments as LoraStep's."""
        return LoraStep(self.kernels, self.placer.table, plan, head, touched, arriving, overlap)

    def why_not_captured(self) -> str:
        """Reason why decode steps on this base cannot be CUDA graphs; empty if they can."""
        if self.frozen.quantised:
            return f"products of quantised weights ({self.frozen.quantised_name}) were never captured in a test"
        if self.host_reads:
            return f"the base's forward reads values on the host ({', '.join(self.host_reads)})"
        if not self.kernels.captures:
            return f"attention {self.kernels.names['paged_attention']} plans on the host"
        return ""
