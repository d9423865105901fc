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

    `added_rows`: rows that the adapter adds to embeddings and lm_head.
    """

    modules: Mapping[str, BaseModule]
    made_for: str
    added_rows: int = 0

    def maps(self, module: str) -> tuple[int, int]:
        """Features (in, out) of a module, with the added rows."""
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


def added_rows(shapes: Shapes, weights: Mapping[str, torch.Tensor], limit: int) -> int:
    """Rows that `weights` add to the base's vocabulary, in embeddings and lm_head alike.

    Raises AdapterError for more than `limit` and where only one of the two has them,
    BaseMismatchError for fewer rows than the base's.
    """
    added: dict[str, int] = {}
    for module, base in shapes.modules.items():
        if base.kind in (ModuleKind.EMBEDDING, ModuleKind.LM_HEAD):
            rows, width = shapes.weight(module)
            weight = weights.get(module)
            if weight is not None and weight.ndim == 2 and weight.shape[1] == width:
                shapes.check(module, "weight", weight, (max(rows, weight.shape[0]), width))
            added[module] = (
                0 if weight is None or weight.ndim != 2 else max(0, weight.shape[0] - rows)
            )
    if len(set(added.values())) > 1:
        rows_of = ", ".join(f"{n} to {m!r}" for m, n in added.items())
        raise AdapterError(
            f"the adapter adds rows to the vocabulary in one place and not in the other: {rows_of}"
        )
    count = next(iter(added.values()), 0)
    if count > limit:
        raise AdapterError(
            f"the adapter adds {count} tokens to the base's vocabulary, the limit is {limit}"
        )
    return count
