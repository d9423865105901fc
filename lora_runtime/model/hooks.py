"""Hooks that make transformers' own modules take adapters: they change what rows get."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..kernels.updates import UpdateSegment, update_embedding, update_linear, update_norm
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

    def _check_rows(self, rows: int, segments: Sequence[UpdateSegment]) -> None:
        """Raise RuntimeError for a call with other rows than the step's, whose adapters would be
        mistaken: what small forwards have shown was chance then."""
        plan = self.context.plan
        if plan is None or segments[0].delta.kind is ModuleKind.LM_HEAD:
            return
        if rows != plan.slots.shape[0]:
            raise RuntimeError(
                f"{self.name} is called with {rows} rows in a step of {plan.slots.shape[0]}"
            )


class LinearHook(_Hook):
    """Hook of a linear map, x: (1, T, in), y: (1, T, out), or with other dimensions of 1."""

    def __call__(
        self, module: Any, args: tuple[torch.Tensor, ...], y: torch.Tensor
    ) -> torch.Tensor | None:
        segments = self.context.updates.get(self.name)
        if not segments:
            return None
        x = rows_of(args[0])
        self._check_rows(x.shape[0], segments)
        add_lora = self.context.kernels.lora
        return like(update_linear(rows_of(y), x, segments, self.bias(module), add_lora), y)

    def bias(self, module: Any) -> torch.Tensor | None:
        """Bias of the base, which is in `y`."""
        return module.bias


class _Embedding(_Hook):
    """Hook of an embedding, tokens: (1, T), y: (1, T, width), or with other dimensions of 1.

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
        self._check_rows(tokens.numel(), segments)
        y = y.masked_fill((tokens >= module.weight.shape[0])[..., None], 0)
        return like(
            update_embedding(rows_of(y), tokens.flatten(), segments, embedding_scale(module)), y
        )


class _Norm(_Hook):
    """Hook of a norm, x and y: (1, T, width), or with heads beside T; the context knows which."""

    def __init__(self, name: str, module: nn.Module, context: StepContext) -> None:
        super().__init__(name, module, context)
        self._bare = _without_hooks(module)

    def __call__(
        self, module: Any, args: tuple[torch.Tensor, ...], y: torch.Tensor
    ) -> torch.Tensor | None:
        segments = self.context.updates.get(self.name)
        if not segments:
            return None
        dim = self.context.row_dims[self.name]
        self._check_rows(y.shape[dim], segments)
        return update_norm(y, args[0], segments, self._bare, dim)


def rows_of(x: torch.Tensor) -> torch.Tensor:
    """(T, n) of an input or output whose other dimensions are 1: a view."""
    return x.view(-1, x.shape[-1])


def like(rows: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(T, n) with the dimensions of `y` around T."""
    return rows.view(*y.shape[:-1], rows.shape[-1])


def _without_hooks(module: nn.Module) -> nn.Module:
    """Copy a module without its hooks: the same parameters in one that calls nobody."""
    bare = copy.copy(module)
    bare._forward_hooks = OrderedDict()
    return bare


def embedding_scale(module: Any) -> float:
    """Factor that the module multiplies its rows with: Gemma's, as it is rounded there."""
    scale = getattr(module, "embed_scale", None)
    if isinstance(scale, torch.Tensor):
        return float(scale.to(module.weight.dtype))
    return 1.0 if scale is None else float(scale)
