"""Torch backend: transformers' forward, with torch's kernels behind its attention and its hooks.

Runs everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...adapters.device import DeviceAdapter, StagedAdapter
from ...config import BaseConfig
from ...errors import AdapterCapacityError
from ...kernels.updates import ModuleDelta
from ...model.files import BaseFiles
from ...model.frozen import FrozenModel
from ...model.weights import BaseTensors
from ..backend import Backend, ModelRunner, RunnerSpec, refuse_int8
from .adapter import TorchAdapter
from .runner import TorchRunner


class TorchBackend(Backend):
    """Backend on torch's kernels: adapters as tensors by module, on the device one by one."""

    @classmethod
    def wants(cls, files: BaseFiles) -> bool:
        return True

    @classmethod
    def open(cls, files: BaseFiles) -> Backend:
        return cls(files.read(), files.config)

    def __init__(
        self, frozen: FrozenModel, config: BaseConfig, weights: BaseTensors | None = None
    ) -> None:
        super().__init__(frozen, weights)
        refuse_int8(config)
        self.compile_norms(config)
        self.shares_host_memory = frozen.device.type == "cpu"

    def staged(self, deltas: Mapping[str, ModuleDelta]) -> StagedAdapter:
        staged = TorchAdapter(deltas)
        return staged.pinned() if self.frozen.device.type == "cuda" else staged

    def place(self, staged: StagedAdapter) -> DeviceAdapter:
        assert isinstance(staged, TorchAdapter)
        if self.shares_host_memory:
            return staged
        try:
            return staged.to(self.frozen.device)
        except torch.OutOfMemoryError as error:
            raise AdapterCapacityError(
                f"the device has no {staged.num_bytes} bytes for the adapter"
            ) from error

    def make_runner(self, spec: RunnerSpec) -> ModelRunner:
        return TorchRunner(self.frozen, spec.num_blocks, spec.block_size)
