"""Shapes of an adapter's tensors against the base's modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ...errors import AdapterError, BaseMismatchError
from ...modules import BaseModule, ModuleKind


@dataclass(frozen=True)
class Shapes:
    """Checks of shapes against one base.

    `added_rows`: rows of embeddings and lm_head beyond the base's; below 0 where they are fewer.
    """

    modules: Mapping[str, BaseModule]
    made_for: str
    added_rows: int = 0

    def maps(self, module: str) -> tuple[int, int]:
        """Features (in, out) of a module, with the adapter's rows."""
        base = self.modules[module]
        more_in = self.added_rows if base.kind is ModuleKind.EMBEDDING else 0
        more_out = self.added_rows if base.kind is ModuleKind.LM_HEAD else 0
        return base.in_features + more_in, base.out_features + more_out

    def weight(self, module: str) -> tuple[int, ...]:
        """Shape of the module's own weight."""
        base = self.modules[module]
        inputs, outputs = self.maps(module)
        if base.kind is ModuleKind.NORM:
            return (outputs,)
        in_first = base.transposed or base.kind is ModuleKind.EMBEDDING
        return (inputs, outputs) if in_first else (outputs, inputs)

    def check(
        self, module: str, what: str, tensor: torch.Tensor, expected: tuple[int, ...]
    ) -> None:
        """Check a tensor's shape.

        Raises AdapterError for another number of dimensions, BaseMismatchError for other sizes.
        """
        if tensor.ndim != len(expected):
            raise AdapterError(
                f"module {module!r}: {what} has the shape {tuple(tensor.shape)}, not {expected}"
            )
        if tuple(tensor.shape) != expected:
            raise BaseMismatchError(
                f"module {module!r}: {what} has the shape {tuple(tensor.shape)}, the base model's is {expected}: "
                f"{self.made_for}"
            )

    def check_pair(self, module: str, a: torch.Tensor, b: torch.Tensor, rank: int) -> None:
        """Check a pair, a: (rank, in) and b: (out, rank). Raises as `check`."""
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != rank or b.shape[1] != rank:
            shapes = f"A {tuple(a.shape)} and B {tuple(b.shape)}"
            raise AdapterError(f"module {module!r}: {shapes} do not have the config's rank {rank}")
        inputs, outputs = self.maps(module)
        if (b.shape[0], a.shape[1]) != (outputs, inputs):
            raise BaseMismatchError(
                f"module {module!r}: the adapter maps {a.shape[1]} → {b.shape[0]} features, the base model "
                f"{inputs} → {outputs}: {self.made_for}"
            )
