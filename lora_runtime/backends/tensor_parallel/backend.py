"""Tensor-parallel backend: several processes, each running the torch backend on its part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ...adapters.device import DeviceAdapter, StagedAdapter
from ...config import BaseConfig
from ...errors import BaseModelError, EngineFailedError
from ...kernels.updates import ModuleDelta
from ...model.files import BaseFiles
from ...model.frozen import FrozenModel
from ..backend import Backend, ModelRunner, RunnerSpec
from ..torch.backend import TorchBackend

if TYPE_CHECKING:  # they need a newer transformers than all else
    from .group import WorkerGroup
    from .weights import GatheredTensors


class TensorParallelBackend(TorchBackend):
    """Backend on several processes. This one is rank 0: it tells the workers what it does."""

    @classmethod
    def wants(cls, files: BaseFiles) -> bool:
        return files.config.tensor_parallel > 1

    @classmethod
    def open(cls, files: BaseFiles) -> Backend:
        try:
            from .load import load_split
        except ImportError as error:
            raise BaseModelError(
                f"tensor_parallel needs transformers 5.20 or newer: {error}"
            ) from error
        frozen, group, weights = load_split(files)
        try:
            return cls(frozen, files.config, group, weights)
        except BaseException:
            group.close()
            raise

    def __init__(
        self, frozen: FrozenModel, config: BaseConfig, group: WorkerGroup, weights: GatheredTensors
    ) -> None:
        super().__init__(frozen, config, weights)
        self.group = group
        self.names["step"] = f"torch/tensor-parallel/{group.plan.world}"

    def staged(self, deltas: Mapping[str, ModuleDelta]) -> StagedAdapter:
        return self.group.stage(deltas, self.frozen.modules)

    def place(self, staged: StagedAdapter) -> DeviceAdapter:
        placed = super().place(staged)
        # Second, after this rank: where there is no room here, nothing has happened elsewhere.
        self.group.place(placed)
        return placed

    def remove(self, adapter: DeviceAdapter) -> None:
        self.group.remove(adapter)

    def make_runner(self, spec: RunnerSpec) -> ModelRunner:
        from .runner import TensorParallelRunner

        return TensorParallelRunner(super().make_runner(spec), self.group, spec)

    def on_failure(self, call: Callable[[EngineFailedError], object]) -> None:
        self.group.on_failure(call)

    def close(self) -> None:
        self.group.close()
