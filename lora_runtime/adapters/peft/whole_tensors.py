"""Weights and biases of an adapter's file that replace the base's, by module."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...errors import AdapterError
from .config import LoraSpec
from .keys import Layout, Part
from .shapes import Shapes
from .targets import Targets


class WholeTensors:
    """Tensors of one adapter that replace the base's, taken one after the other out of `left`;
    what remains there is not called for."""

    def __init__(
        self,
        spec: LoraSpec,
        targets: Targets,
        layout: Layout,
        tensors: Mapping[str, torch.Tensor],
        shapes: Shapes,
    ) -> None:
        self.spec, self.targets, self.layout, self.tensors, self.shapes = (
            spec,
            targets,
            layout,
            tensors,
            shapes,
        )
        self.left = {module: dict(parts) for module, parts in layout.parts.items()}
        self.weights: dict[str, torch.Tensor] = {}
        self.biases: dict[str, torch.Tensor] = {}
        self.unused: list[str] = []

    def take(self, module: str, *parts: Part) -> torch.Tensor | None:
        """Take the one tensor of these parts, if any. PEFT may write a saved module twice, if
        equal."""
        names = [self.left[module].pop(p) for p in parts if p in self.left.get(module, ())]
        for other in names[1:]:
            written_twice = parts[1] in (Part.SAVED_WEIGHT, Part.SAVED_BIAS)
            if not written_twice or not same(self.tensors[names[0]], self.tensors[other]):
                raise AdapterError(
                    f"tensors {names[0]!r} and {other!r} are the same part of one module"
                )
        return self.tensors[names[0]] if names else None

    def pass_over(self, module: str, part: Part) -> None:
        if part in self.left.get(module, ()):
            self.unused.append(self.left[module].pop(part))

    def need(self, module: str, why: str, *parts: Part) -> torch.Tensor:
        tensor = self.take(module, *parts)
        if tensor is None:
            raise AdapterError(f"{why}: module {module!r} has no {parts[0]} in the file")
        return tensor

    def take_saved(self) -> None:
        targets, modules = self.targets, self.shapes.modules
        for module in sorted(targets.saved):
            self.weights[module] = self.need(
                module, "modules_to_save", Part.WEIGHT, Part.SAVED_WEIGHT
            )
            if modules[module].has_bias:
                self.biases[module] = self.need(
                    module, "modules_to_save", Part.BIAS, Part.SAVED_BIAS
                )
        if head := targets.tied_saved:
            embedding = modules[head].tied_to
            if modules[head].has_bias:
                raise AdapterError(
                    f"module {head!r} has a bias, which ensure_weight_tying would drop"
                )
            weight = self.take(head, Part.WEIGHT, Part.SAVED_WEIGHT)
            if weight is not None and not same(weight, self.weights[embedding]):
                raise AdapterError(
                    f"the weights of {head!r} and {embedding!r} differ, with ensure_weight_tying"
                )
            self.weights[head] = self.weights[embedding]

    def take_base_weights(self) -> None:
        """Take the embeddings that PEFT saved from below the adapter: loading them writes into the
        base, through ties too. A weight under the name that it would have in a model without, or
        with, an adapter on its module is nothing that PEFT reads."""
        targets = self.targets
        replaced = targets.saved | {targets.tied_saved}
        changed = targets.lora | targets.tokens.keys() | {targets.tied_lora, targets.tied_tokens}
        for module in replaced & self.left.keys():
            self.pass_over(module, Part.BASE_BIAS)
            if not self._shares_weight(module):
                self.pass_over(module, Part.BASE_WEIGHT)
        for group in self._weight_groups():
            found: dict[str, torch.Tensor] = {}
            for module in group:
                is_below = module in replaced | changed
                part = Part.BASE_WEIGHT if is_below else Part.WEIGHT
                if (weight := self.take(module, part)) is not None:
                    found[module] = weight
            if len(found) > 1 and not same(*found.values()):
                raise AdapterError(
                    f"the saved weights of {' and '.join(map(repr, found))} differ, but they are tied"
                )
            for module in group if found else ():
                if module not in replaced:
                    self.weights[module] = next(iter(found.values()))
                    self._take_head_bias(module)

    def _shares_weight(self, module: str) -> bool:
        return any(module in group and len(group) > 1 for group in self._weight_groups())

    def _take_head_bias(self, module: str) -> None:
        if module not in self.targets.biases and self.shapes.modules[module].has_bias:
            bias = self.take(module, Part.BIAS, Part.BASE_BIAS)
            if bias is not None:
                self.biases[module] = bias

    def _weight_groups(self) -> list[list[str]]:
        """Groups of embeddings and lm_head, together where they share a weight."""
        groups: dict[str, list[str]] = {}
        for module, base in self.shapes.modules.items():
            if base.is_vocabulary:
                groups.setdefault(base.tied_to or module, []).append(module)
        return list(groups.values())

    def take_biases(self) -> None:
        for module in sorted(self.targets.biases):
            self.biases[module] = self.need(
                module, f"bias = {self.spec.bias!r}", Part.BIAS, Part.BASE_BIAS
            )


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are equal; of those without values, whether they could be."""
    alike = a.dtype == b.dtype and a.shape == b.shape
    return alike and (a.is_meta or torch.equal(a, b))
