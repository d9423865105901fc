"""Which modules are adapted, and with which ranks and alphas."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..adapters.config import path_ends
from ..adapters.update import BaseModule, ModuleKind
from ..errors import TrainingError
from .config import TrainConfig

ALL_LINEAR = "all-linear"
_MAX_KINDS = 16
_MAX_RANK = 4096


@dataclass(frozen=True)
class Ranks:
    """PEFT's r, rank_pattern, lora_alpha and alpha_pattern."""

    rank: int
    rank_pattern: dict[str, int]
    alpha: float
    alpha_pattern: dict[str, float]


def select_targets(modules: Mapping[str, BaseModule], targets: Sequence[str] | str) -> dict[str, BaseModule]:
    """The chosen linear maps by path. Raises TrainingError for a target that is none or matches nothing."""
    if targets == ALL_LINEAR:
        chosen = {n: m for n, m in modules.items() if m.kind is ModuleKind.LINEAR}
    elif isinstance(targets, str):
        chosen = {n: m for n, m in modules.items() if re.fullmatch(targets, n)}
        if not chosen:
            raise TrainingError(f"the pattern {targets!r} matches no module of the base")
    else:
        chosen = {n: m for n, m in modules.items() if any(end in targets for end in path_ends(n))}
        for target in targets:
            if not any(target in path_ends(n) for n in chosen):
                raise TrainingError(f"target {target!r} is no module of the base; its linear layers are "
                                    f"{', '.join(_kinds(modules))}")
    for name, module in chosen.items():
        if module.kind not in (ModuleKind.LINEAR, ModuleKind.LM_HEAD):
            raise TrainingError(f"target {name!r} is of kind {module.kind}: only linear layers are adapted")
    return chosen


def choose_ranks(config: TrainConfig, chosen: Mapping[str, BaseModule]) -> Ranks:
    """The ranks that the settings ask for; an alpha that is not given is twice the rank, module by module."""
    rank, rank_pattern = (spread(config.budget, chosen) if config.budget
                          else (config.rank, dict(config.rank_pattern)))
    alpha_pattern = {k: 2.0 * r for k, r in rank_pattern.items()} if config.alpha is None else {}
    alpha = 2.0 * rank if config.alpha is None else config.alpha
    return Ranks(rank, rank_pattern, alpha, alpha_pattern | dict(config.alpha_pattern))


def spread(budget: int, chosen: Mapping[str, BaseModule]) -> tuple[int, dict[str, int]]:
    """Spend `budget` parameters of A and B on the chosen modules: (rank, rank_pattern).

    A module of rank r has r * (in + out) of them. Every kind of module (q_proj, v_proj, ...: the last part of its path)
    gets the largest rank that all can have; then those kinds get one more whose parameters together come closest to
    the budget from below. Ranks differ by one at most, as in the LoRA paper's comparison of weight types
    (arXiv:2106.09685, table 5), and are the same in all layers. Raises TrainingError for a budget below rank 1.
    """
    cost = _cost_by_kind(chosen)
    if len(cost) > _MAX_KINDS:
        raise TrainingError(f"a budget is spread over at most {_MAX_KINDS} kinds of modules, these are {len(cost)}")
    rank, rest = divmod(budget, sum(cost.values()))
    if not 1 <= rank < _MAX_RANK:
        raise TrainingError(f"a budget of {budget} parameters is outside ranks 1 to {_MAX_RANK - 1}: rank 1 of "
                            f"{', '.join(cost)} takes {sum(cost.values())}")
    kinds = sorted(cost)
    subsets = itertools.chain.from_iterable(itertools.combinations(kinds, n) for n in range(len(kinds)))
    best = max((s for s in subsets if sum(cost[k] for k in s) <= rest), key=lambda s: sum(cost[k] for k in s))
    return rank, dict.fromkeys(best, rank + 1)


def _cost_by_kind(chosen: Mapping[str, BaseModule]) -> dict[str, int]:
    """Parameters per rank of all modules of a kind together."""
    cost: dict[str, int] = {}
    for name, module in chosen.items():
        kind = name.rpartition(".")[2]
        cost[kind] = cost.get(kind, 0) + module.in_features + module.out_features
    return cost


def _kinds(modules: Mapping[str, BaseModule]) -> list[str]:
    linear = (ModuleKind.LINEAR, ModuleKind.LM_HEAD)
    return sorted({n.rpartition(".")[2] for n, m in modules.items() if m.kind in linear})
