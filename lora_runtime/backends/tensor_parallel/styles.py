"""Styles by which split modules take adapters: hooks beside transformers' parallel styles, and a
row-parallel one of our own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers.distributed.parallel_utils import ALL_PARALLEL_STYLES
from transformers.distributed.tensor_parallel import RowwiseParallel

from ...errors import BaseModelError
from ...kernels.updates import update_linear
from ...model.hooks import LinearHook, like, rows_of
from ...model.step_context import StepContext
from .shard_plan import OWN_STYLE, ROW_STYLES, ShardPlan, Split, bounds

_PARTIAL = "loramux_partial"
"""The attribute of a row-parallel module that holds its PartialLinear."""


class SplitLinear(LinearHook):
    """Hook of a column-parallel module.

    y is of the rank's own outputs or, of a module that gathers them, of all; x whole, as the
    adapter's part is.
    """

    def __init__(self, name: str, module: Any, context: StepContext, outputs: int) -> None:
        """Make the hook. `outputs`: the width of y on this rank."""
        super().__init__(name, module, context)
        self._shape = module.in_features, outputs
        bias = module.bias
        # Once, here: to gather is a step that every rank must take together.
        if isinstance(bias, DTensor):
            bias = bias.full_tensor() if outputs == module.out_features else bias.to_local()
        self._own_bias = bias

    def __call__(
        self, module: Any, args: tuple[torch.Tensor, ...], y: torch.Tensor
    ) -> torch.Tensor | None:
        if self.context.dry_rows:
            _check_shape(self.name, (args[0].shape[-1], y.shape[-1]), self._shape)
        return super().__call__(module, args, y)

    def bias(self, module: Any) -> torch.Tensor | None:
        return self._own_bias


class PartialLinear:
    """Adapters of a row-parallel module, in the rank's part of the sum: x of its own inputs, y
    before the sum."""

    def __init__(self, name: str, module: Any, context: StepContext, inputs: int) -> None:
        """Take the module. `inputs`: the width of x on this rank."""
        self.name, self.context = name, context
        self.reached = False
        """True once our style has called: without it, adapters would change nothing here."""
        self._shape = inputs, module.out_features
        self._x = torch.empty(0)
        setattr(module, _PARTIAL, self)

    def take(self, x: torch.Tensor) -> None:
        if self.context.dry_rows or self.name in self.context.updates:
            self._x = x

    def add(self, y: torch.Tensor) -> torch.Tensor:
        if self.context.dry_rows:
            _check_shape(self.name, (self._x.shape[-1], y.shape[-1]), self._shape)
            self.reached = True
        segments = self.context.updates.get(self.name)
        if not segments:
            return y
        x, self._x = rows_of(self._x), torch.empty(0)
        # The base's bias comes after the sum, so that DoRA's factor does not meet it.
        return like(update_linear(rows_of(y), x, segments, None, self.context.kernels.lora), y)


class _Rowwise(RowwiseParallel):
    """Row-parallel style of transformers, with the adapters' part in the very sum over the ranks:
    no message of its own."""

    def transform_inputs_pre_forward(self, module: Any, args: Any, kwargs: Any, mesh: Any) -> Any:
        args, kwargs = super().transform_inputs_pre_forward(module, args, kwargs, mesh)
        if (partial := getattr(module, _PARTIAL, None)) is not None:
            partial.take(args[0])
        return args, kwargs

    def transform_output_post_forward(self, module: Any, output: Any, mesh: Any) -> Any:
        if (partial := getattr(module, _PARTIAL, None)) is not None:
            output = partial.add(output)
        return super().transform_output_post_forward(module, output, mesh)


def register() -> None:
    """Make our styles known to transformers, each as the one that it stands for."""
    for name in ROW_STYLES:
        theirs = ALL_PARALLEL_STYLES[name]
        own = _Rowwise(input_layouts=theirs.input_layouts, output_layouts=theirs.output_layouts)
        # Registered as transformers does itself.
        ALL_PARALLEL_STYLES.register(OWN_STYLE + name, own)  # type: ignore[arg-type]


def attach_linear(plan: ShardPlan, rank: int, name: str, module: Any, context: StepContext) -> None:
    """Attach a linear map's hook, in the place of hooks' own.

    Raises BaseModelError for one that cannot be split.
    """
    if not isinstance(module, nn.Linear):
        raise BaseModelError(
            f"tensor_parallel: {name} is a {type(module).__name__}, which transformers does not split"
        )
    split, outputs = plan.split(name), module.out_features
    if split is Split.INPUTS:
        start, end = bounds(module.in_features, rank, plan.world)
        PartialLinear(name, module, context, end - start)
        return
    if split is Split.OUTPUTS:
        start, end = bounds(outputs, rank, plan.world)
        outputs = end - start
    SplitLinear(name, module, context, outputs)


def check_reached(model: nn.Module) -> None:
    """Check, after the dry run, that adapters reach their modules.

    Raises BaseModelError for a row-parallel one that passes over them.
    """
    for name, module in model.named_modules():
        partial = getattr(module, _PARTIAL, None)
        if partial is not None and not partial.reached:
            raise BaseModelError(f"tensor_parallel: {name} is not split as the plan says")


def _check_shape(name: str, actual: tuple[int, int], planned: tuple[int, int]) -> None:
    if actual != planned:
        raise BaseModelError(
            f"tensor_parallel: {name} maps {actual[0]} to {actual[1]} on this rank, the plan has {planned}"
        )
