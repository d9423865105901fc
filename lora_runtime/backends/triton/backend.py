"""Triton backend: adapters in slots, projections fused, decode steps as CUDA graphs."""

from __future__ import annotations

from collections.abc import Mapping

from ...adapters.device import DeviceAdapter, StagedAdapter
from ...config import BaseConfig
from ...kernels import refuse_route, select, wants_triton
from ...kernels.updates import ModuleDelta
from ...model.files import BaseFiles
from ...model.frozen import FrozenModel
from ..backend import Backend, ModelRunner, RunnerSpec, UnusableError, refuse_int8
from .fused_model import FusedModel
from .placement import FlatAdapter, SlotAdapter
from .runner import TritonRunner


class TritonBackend(Backend):
    """Backend on Triton's kernels: adapters in one buffer each, behind a slot of a table."""

    @classmethod
    def wants(cls, files: BaseFiles) -> bool:
        wanted = wants_triton(files.device, files.config.kernels)
        if not wanted:
            refuse_route(files.config.attention)
        return wanted

    @classmethod
    def open(cls, files: BaseFiles) -> Backend:
        frozen = files.read()
        if frozen.has_sinks and files.config.kernels == "auto":
            raise UnusableError("Triton's attention takes no sinks, torch's kernels are used")
        return cls(frozen, files.config)

    def __init__(self, frozen: FrozenModel, config: BaseConfig) -> None:
        """Fuse the model. Raises BaseModelError where Triton cannot run, or not this base."""
        frozen.use(select(frozen.device, "triton", config.attention))
        super().__init__(frozen)
        self.interprets = frozen.device.type != "cuda"
        refuse_int8(config)
        self.fused = FusedModel(frozen)
        self.compile_norms(config)

    def staged(self, deltas: Mapping[str, ModuleDelta]) -> StagedAdapter:
        return FlatAdapter(deltas, self.fused.placer.copies.pinned)

    def place(self, staged: StagedAdapter) -> DeviceAdapter:
        assert isinstance(staged, FlatAdapter)
        return self.fused.placer.place(staged)

    def remove(self, adapter: DeviceAdapter) -> None:
        assert isinstance(adapter, SlotAdapter)
        self.fused.placer.remove(adapter)

    def open_slots(self, slots: int) -> None:
        self.fused.open_slots(slots)

    def captures(self) -> bool:
        return self.frozen.device.type == "cuda" and not self.fused.why_not_captured()

    def make_runner(self, spec: RunnerSpec) -> ModelRunner:
        runner = TritonRunner(self.fused, spec)
        self.names["step"] = runner.decode.launcher.name
        return runner
