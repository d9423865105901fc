"""Hooks that make transformers' own modules take adapters: they change what rows get."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..kernels.updates import update_embedding, update_linear, update_norm
from ..modules import BaseModule, ModuleKind
from .step_context import StepContext


def attach(
    model: nn.Module,
    modules: Mapping[str, BaseModule],
    context: StepContext,
    linear: Callable[[str, nn.Module, StepContext], object] | None = None,
) -> None:
    """Attach the hooks. A module that no row's adapter changes costs one look-up in a dict.

    `linear`: hook in LinearHook's place.
    """
    for name, module in modules.items():
        target = model.get_submodule(name)
        if module.kind is ModuleKind.EMBEDDING:
            _Embedding(name, target, context)
        elif module.kind is ModuleKind.NORM:
            _Norm(name, target, context)
        else:
            (linear or LinearHook)(name, target, context)


class _Hook:
    def __init__(self, name: str, module: nn.Module, context: StepContext) -> None:
        self.name, self.context = name, context
        module.register_forward_hook(self)

    def __call__(
        self, module: Any, args: tuple[torch.Tensor, ...], y: torch.Tensor
    ) -> torch.Tensor | None:
        """Compute the output that takes the place of `y`, None for `y` as it is."""
        raise NotImplementedError


class LinearHook(_Hook):
    """Hook of a linear map, x: (1, T, in), y: (1, T, out)."""

    def __call__(
        self, module: Any, args: tuple[torch.Tensor, ...], y: torch.Tensor
    ) -> torch.Tensor | None:
        segments = self.context.updates.get(self.name)
        if not segments:
            return None
        return update_linear(
            y[0], args[0][0], segments, self.bias(module), self.context.kernels.lora
        )[None]

    def bias(self, module: Any) -> torch.Tensor | None:
        """Bias of the base, which is in `y`."""
        return module.bias


class _Embedding(_Hook):
    """Hook of an embedding, tokens: (1, T), y: (1, T, width).

    Tokens that adapters added are not the base's to look up.
    """

    def __init__(self, name: str, module: nn.Module, context: StepContext) -> None:
        super().__init__(name, module, context)
        self._tokens = torch.empty(0)
        module.register_forward_pre_hook(self._inside)

    def _inside(
        self, module: Any, args: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...] | None:
        if self.name not in self.context.updates:
            return None
        self._tokens = args[0]
        return (args[0].clamp(max=module.weight.shape[0] - 1), *args[1:])

    def __call__(
        self, module: Any, args: tuple[torch.Tensor, ...], y: torch.Tensor
    ) -> torch.Tensor | None:
        segments = self.context.updates.get(self.name)
        if not segments:
            return None
        tokens, self._tokens = self._tokens, torch.empty(0)
        y = y.masked_fill((tokens >= module.weight.shape[0])[..., None], 0)
        return update_embedding(y[0], tokens[0], segments, embedding_scale(module))[None]


class _Norm(_Hook):
    """Hook of a norm, x and y: (1, T, width), or with heads beside T; the dry run shows which."""

    def __init__(self, name: str, module: nn.Module, context: StepContext) -> None:
        super().__init__(name, module, context)
        self._dim = 1
        self._bare = _without_hooks(module)

    def __call__(
        self, module: Any, args: tuple[torch.Tensor, ...], y: torch.Tensor
    ) -> torch.Tensor | None:
        if self.context.dry_rows:
            self._dim = list(y.shape).index(self.context.dry_rows, 1)
            return None
        segments = self.context.updates.get(self.name)
        return update_norm(y, args[0], segments, self._bare, self._dim) if segments else None


def _without_hooks(module: nn.Module) -> nn.Module:
    """Copy a module without its hooks: the same parameters in one that calls nobody."""
    bare = copy.copy(module)
    bare._forward_hooks = OrderedDict()
    return bare


def embedding_scale(module: Any) -> float:
    """Factor that the module multiplies its rows with: Gemma's, as it is rounded there."""
    scale = getattr(module, "embed_scale", None)
    return 1.0 if scale is None else float(scale.to(module.weight.dtype))
