"""Weights of a base of which each rank has a part, and what staging must know of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch.distributed.tensor import DTensor, Shard

from ...model.weights import BaseTensors, chunks
from ...modules import BaseModule
from .shard_plan import bounds

Ask = Callable[..., list[torch.Tensor]]
"""Function (method, *arguments) → what LocalTensors.<method> gives on each rank, by rank."""


class _Part(NamedTuple):
    """Part of a parameter that lies here, the dimension that is split, and the whole's shape."""

    tensor: torch.Tensor
    dim: int | None
    shape: torch.Size


class LocalTensors:
    """Weights of one rank, its part; results are on the host, in float32.

    They are looked up once, before any step: while a module's forward runs, transformers has plain
    local tensors in the place of those that know how they are split.
    """

    def __init__(self, model: Any, rank: int, world: int) -> None:
        self._rank, self._world = rank, world
        self._parts = {
            (name, parameter): _part_of(tensor)
            for name, module in model.named_modules(remove_duplicate=False)
            for parameter, tensor in module.named_parameters(recurse=False)
        }

    def rows(self, name: str, start: int, end: int) -> torch.Tensor:
        """Part of the whole weight's rows `start:end` that lies here: (rows here, columns here)."""
        weight, dim = self._local(name)
        if dim == 0:
            first, last = self._bounds(name, 0)
            start, end = (min(max(row, first), last) - first for row in (start, end))
        return weight[start:end].float().cpu()

    def squares(self, name: str, a: torch.Tensor, b: torch.Tensor, scaling: float) -> torch.Tensor:
        """Sums of squares of W + scaling * B A over the inputs here, for the outputs here."""
        weight, dim = self._local(name)
        if dim == 0:
            first, last = self._bounds(name, 0)
            b = b[first:last]
        elif dim == 1:
            first, last = self._bounds(name, 1)
            a = a[:, first:last]
        a, b = a.to(weight.device).float(), b.to(weight.device).float()
        squares = [torch.empty(0)]
        for start, end in chunks(weight.shape[0], max(1, weight.shape[1])):
            updated = torch.addmm(weight[start:end].float(), b[start:end], a, alpha=scaling)
            squares.append(updated.square_().sum(1).cpu())
        return torch.cat(squares)

    def parameter(self, name: str, parameter: str) -> torch.Tensor:
        """Part of a bias, or of a norm's weight, that lies here."""
        return self._local(name, parameter)[0].float().cpu()

    def dim(self, name: str, parameter: str = "weight") -> int | None:
        """The dimension that is split, None where each rank has the whole."""
        return self._local(name, parameter)[1]

    def _local(self, name: str, parameter: str = "weight") -> tuple[torch.Tensor, int | None]:
        part = self._parts[name, parameter]
        return part.tensor, part.dim

    def _bounds(self, name: str, dim: int) -> tuple[int, int]:
        return bounds(self._parts[name, "weight"].shape[dim], self._rank, self._world)


def _part_of(tensor: torch.Tensor) -> _Part:
    # No gradients: nothing to detach.
    if not isinstance(tensor, DTensor):
        return _Part(tensor, None, tensor.shape)
    (placement,) = tensor.placements
    dim = placement.dim % tensor.ndim if isinstance(placement, Shard) else None
    return _Part(tensor.to_local(), dim, tensor.shape)


class GatheredTensors(BaseTensors):
    """Weights of all ranks, as rank 0 sees them. For any one thread at a time, beside steps."""

    def __init__(
        self,
        model: Any,
        modules: Mapping[str, BaseModule],
        dtype: torch.dtype,
        own: LocalTensors,
        ask: Ask,
    ) -> None:
        super().__init__(model, modules, dtype, {})
        self._own, self._ask = own, ask

    def rows(self, name: str, start: int, end: int) -> torch.Tensor:
        dim = self._own.dim(name)
        if dim is None:
            return self._own.rows(name, start, end)
        return torch.cat(self._ask("rows", name, start, end), dim)

    def updated_norms(
        self, name: str, a: torch.Tensor, b: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        dim = self._own.dim(name)
        if dim is None:
            return self._own.squares(name, a, b, scaling).sqrt()
        squares = self._ask("squares", name, a, b, scaling)
        return (torch.cat(squares) if dim == 0 else torch.stack(squares).sum(0)).sqrt()

    def parameter(self, name: str, parameter: str) -> torch.Tensor:
        if self._own.dim(name, parameter) is None:
            return self._own.parameter(name, parameter)
        return torch.cat(self._ask("parameter", name, parameter))
