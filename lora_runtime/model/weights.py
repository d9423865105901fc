"""Weights of the base as they are multiplied, wherever they lie, for what adapters are compared and
combined with."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import torch

from ..errors import AdapterError
from ..kernels.cpu.library import load
from ..kernels.cpu.weights import PackedLinear, quantize_int8, unpack_rows, updated_norms
from ..modules import BaseModule
from .quantised import dequantised


class BaseTensors:
    """Weights of one base.

    `packed`: those that transformers' modules have lost to the C++ backend's program, by module.
    `quantised`: modules without a plain weight; of these only `updated_norms` and biases can be
    had.
    """

    def __init__(
        self,
        model: Any,
        modules: Mapping[str, BaseModule],
        dtype: torch.dtype,
        packed: Mapping[str, PackedLinear],
        quantised: Set[str] = frozenset(),
    ) -> None:
        self.modules, self.dtype, self.quantised = modules, dtype, quantised
        self._model, self._packed = model, packed

    def rows(self, name: str, start: int, end: int) -> torch.Tensor:
        """Rows `start:end` of a weight (out, in), or (tokens, width), float32 on the base's device."""
        if name in self._packed:
            return unpack_rows(load(), self._packed[name], start, end, self.dtype)
        weight = self._model.get_submodule(name).weight.detach()
        rows = weight[:, start:end].t() if self.modules[name].transposed else weight[start:end]
        return rows.float()

    def updated_norms(
        self, name: str, a: torch.Tensor, b: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """Norms (out,) of a linear map, over the inputs of W + scaling * B A in float32, on the
        host.

        Raises AdapterError for a quantised weight that cannot be had.
        """
        if name in self._packed:
            return updated_norms(load(), self._packed[name], a, b, scaling, self.dtype)
        module, norms = self.modules[name], []
        weight = self._dequantised(name) if name in self.quantised else None
        for start, end in chunks(module.out_features, module.in_features):
            own = self.rows(name, start, end) if weight is None else weight[start:end].float()
            a, b = a.to(own), b.to(own)
            norms.append(torch.addmm(own, b[start:end], a, alpha=scaling).norm(dim=1))
        return torch.cat(norms).cpu()

    def _dequantised(self, name: str) -> torch.Tensor:
        weight = dequantised(module := self._model.get_submodule(name))
        if weight is None:
            raise AdapterError(
                f"use_dora on {name!r} is not supported: it needs the norm of the weight, which is "
                f"quantised ({type(module).__name__})"
            )
        return weight

    def parameter(self, name: str, parameter: str) -> torch.Tensor:
        """Weight of a norm, or a bias: (width,) float32, on the host."""
        return getattr(self._model.get_submodule(name), parameter).detach().float().cpu()

    def holds(self, name: str, weight: torch.Tensor) -> bool:
        """True if this weight, laid out as by `rows`, is bit for bit the base's as it is stored."""
        int8 = name in self._packed and self._packed[name].scale is not None
        for start, end in chunks(*weight.shape):
            own = self.rows(name, start, end)
            part = weight[start:end].to(self.dtype).to(own.device).float()
            if int8:
                values, scale = quantize_int8(part)
                part = scale[:, None] * values
            if not torch.equal(own, part):
                return False
        return True


def chunks(rows: int, columns: int) -> list[tuple[int, int]]:
    """Ranges of rows of about 16 MiB in float32."""
    size = max(1, (4 << 20) // columns)
    return [(start, min(rows, start + size)) for start in range(0, rows, size)]
