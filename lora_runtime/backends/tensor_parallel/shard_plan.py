"""Plan of what is split over the ranks: the base's modules by transformers' own plan, adapters so
that they match."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ...errors import BaseModelError
from ...kernels.updates import ModuleDelta
from ...model.quantised import method_of
from ...modules import BaseModule, ModuleKind


class Split(StrEnum):
    """Split of a module over the ranks: what it is given on each and what it gives back."""

    WHOLE = "whole"
    """Module whose input and output are the same on every rank, whatever the weight's layout: an
    adapter lies whole on each."""
    OUTPUTS = "outputs"
    """Module of which each rank has its part of the outputs (column parallel)."""
    INPUTS = "inputs"
    """Module of which each rank has its part of the inputs, and the outputs are sums over the ranks
    (row parallel)."""


OWN_STYLE = "loramux_"
"""Prefix of our own row-parallel styles, which take adapters (styles.py)."""
ROW_STYLES = ("rowwise", "rowwise_rep", "rowwise_split_input")
_SPLITS = {
    "colwise": Split.OUTPUTS,
    **dict.fromkeys(ROW_STYLES, Split.INPUTS),
    **dict.fromkeys(
        (
            "colwise_gather_output",
            "colwise_rep",
            "embedding_rowwise",
            "embedding_colwise",
            "replicate",
            "replicated_with_grad_allreduce",
        ),
        Split.WHOLE,
    ),
}


@dataclass(frozen=True)
class ShardPlan:
    """Plan of one base.

    `rules`: transformers' styles by module name, layer numbers as `*`; `world`: number of ranks.
    """

    world: int
    rules: Mapping[str, str]

    @property
    def overrides(self) -> dict[str, str]:
        """Styles that replace transformers' own, so that row-parallel modules take adapters."""
        return {
            name: OWN_STYLE + style for name, style in self.rules.items() if style in ROW_STYLES
        }

    def split(self, name: str) -> Split:
        """Split of a module by its path; modules without a rule lie whole on every rank."""
        rule = self.rules.get(re.sub(r"\.\d+(?=\.|$)", ".*", name))
        return Split.WHOLE if rule is None else _SPLITS[rule]

    def shard(self, delta: ModuleDelta, name: str, module: BaseModule, rank: int) -> ModuleDelta:
        """The rank's part of an adapter's change of a module, in memory of its own where it is a
        part.

        Over the ranks, outputs lie side by side, and sums over parts of the inputs add up to the
        whole: x -> B A x, DoRA's factor and a saved weight are linear in them. What is added once
        is rank 0's.
        """
        split = self.split(name)
        if split is Split.WHOLE:
            return delta
        if split is Split.OUTPUTS:
            start, end = bounds(module.out_features, rank, self.world)
            parts = {n: t if n == "a" else t[start:end].clone() for n, t in delta.tensors().items()}
            return replace(delta, out=end - start, **parts)  # type: ignore[arg-type]
        start, end = bounds(module.in_features, rank, self.world)
        parts = {
            n: t[:, start:end].contiguous() if n in ("a", "dense") else t
            for n, t in delta.tensors().items()
        }
        if rank:
            parts["bias"] = None  # type: ignore[assignment]
        return replace(delta, **parts)  # type: ignore[arg-type]


def bounds(size: int, rank: int, world: int) -> tuple[int, int]:
    """The rank's part of a dimension as DTensor cuts it: equal, rounded up, the last ones shorter."""
    step = -(-size // world)
    return min(size, rank * step), min(size, (rank + 1) * step)


def plan_of(source: str | os.PathLike[str], world: int) -> ShardPlan:
    """Make the plan from the base's config, before any weight is read.

    Raises BaseModelError for what cannot be split.
    """
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise BaseModelError(f"base model {str(source)!r} cannot be loaded: {error}") from error
    plan = ShardPlan(world, dict(model.tp_plan or {}))
    _check(plan, type(model).__name__, config)
    return plan


def _check(plan: ShardPlan, architecture: str, config: Any) -> None:
    if not plan.rules:
        raise BaseModelError(f"tensor_parallel: transformers has no plan to split {architecture}")
    if method_of(config):
        raise BaseModelError("tensor_parallel: a quantised base is not split")
    if unknown := {
        f"{name} as {style}" for name, style in plan.rules.items() if style not in _SPLITS
    }:
        raise BaseModelError(
            f"tensor_parallel: {architecture} is split in ways that adapters do not follow here: "
            f"{', '.join(sorted(unknown))}"
        )
    if not any(
        name.endswith("k_proj") and style == "colwise" for name, style in plan.rules.items()
    ):
        return  # heads stay together
    text = config.get_text_config()
    for name in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(text, name, None)
        if heads is not None and heads % plan.world:
            raise BaseModelError(
                f"tensor_parallel: {name} {heads} cannot be split over {plan.world} ranks"
            )


def check_modules(plan: ShardPlan, modules: Mapping[str, BaseModule]) -> None:
    """Raise BaseModelError for a split that a module's kind does not have here."""
    for name, module in modules.items():
        if module.kind is not ModuleKind.LINEAR and plan.split(name) is not Split.WHOLE:
            raise BaseModelError(
                f"tensor_parallel: {name} is a {module.kind}, whose outputs must come together"
            )
