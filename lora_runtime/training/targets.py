"""Choice of the modules that are adapted, and with which ranks and alphas."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..adapters.peft.config import path_ends
from ..adapters.peft.patterns import Patterns
from ..errors import AdapterError, TrainingError
from ..kernels.updates import MAX_RANK
from ..modules import BaseModule, ModuleKind
from .config import TrainConfig
from .convert import changes_base

ALL_LINEAR = "all-linear"
_MAX_KINDS = 16

_T = TypeVar("_T")


@dataclass(frozen=True)
class Ranks:
    """PEFT's r, rank_pattern, lora_alpha and alpha_pattern; of a pattern's keys the first that
    matches counts."""

    rank: int
    rank_pattern: dict[str, int]
    alpha: float
    alpha_pattern: dict[str, float]


def select_targets(
    modules: Mapping[str, BaseModule], targets: Sequence[str] | str
) -> dict[str, BaseModule]:
    """The chosen linear maps by path. Raises TrainingError for a target that is none or matches
    nothing."""
    if targets == ALL_LINEAR:
        chosen = {n: m for n, m in modules.items() if m.kind is ModuleKind.LINEAR}
    elif isinstance(targets, str):
        match = _matcher("target_modules")
        chosen = {n: m for n, m in modules.items() if match(rf"(?:{targets})\Z", n)}
        if not chosen:
            raise TrainingError(f"the pattern {targets!r} matches no module of the base")
    else:
        chosen = {n: m for n, m in modules.items() if any(end in targets for end in path_ends(n))}
        for target in targets:
            if not any(target in path_ends(n) for n in chosen):
                raise TrainingError(
                    f"target {target!r} is no module of the base; its linear layers are "
                    f"{', '.join(_kinds(modules))}"
                )
    for name, module in chosen.items():
        if module.kind not in (ModuleKind.LINEAR, ModuleKind.LM_HEAD):
            raise TrainingError(
                f"target {name!r} is of kind {module.kind}: only linear layers are adapted"
            )
    return chosen


def choose_ranks(config: TrainConfig, chosen: Mapping[str, BaseModule]) -> Ranks:
    """The ranks that the settings ask for; an alpha that is not given is twice the rank, module by
    module.

    Raises TrainingError for a pattern's key that decides about no module, and for a rank that a
    module cannot have.
    """
    rank, rank_pattern = (
        spread(config.budget, chosen, 2 if config.init == "orthogonal" else 1)
        if config.budget
        else (config.rank, dict(config.rank_pattern))
    )
    of_module = by_pattern("rank_pattern", rank_pattern, chosen, rank)
    by_pattern("alpha_pattern", config.alpha_pattern, chosen, 0.0)
    for name, module in chosen.items():
        _check_rank(config, name, module, of_module[name])
    # the user's keys first: one of them must win over what follows from a rank
    derived = {k: 2.0 * r for k, r in rank_pattern.items()} if config.alpha is None else {}
    alpha_pattern = dict(config.alpha_pattern) | {
        k: a for k, a in derived.items() if k not in config.alpha_pattern
    }
    alpha = 2.0 * rank if config.alpha is None else config.alpha
    return Ranks(rank, rank_pattern, alpha, alpha_pattern)


def by_pattern(
    name: str, pattern: Mapping[str, _T], chosen: Iterable[str], default: _T
) -> dict[str, _T]:
    """What each module gets from a rank_pattern or alpha_pattern, by PEFT's rule: the first key
    that matches.

    Raises TrainingError for a key that comes first for no module.
    """
    match = _matcher(name)
    first = {n: next((k for k in pattern if match(rf"(.*\.)?({k})$", n)), None) for n in chosen}
    if idle := [k for k in pattern if k not in first.values()]:
        raise TrainingError(
            f"{name}: {idle[0]!r} decides about none of the adapted modules: it matches none, or a key "
            "before it does"
        )
    return {n: default if key is None else pattern[key] for n, key in first.items()}


def _matcher(name: str) -> Callable[[str, str], bool]:
    """(pattern, module): as the loader matches, and with its limits, for what is trained must load."""
    patterns = Patterns()

    def match(pattern: str, module: str) -> bool:
        try:
            return patterns.start(name, pattern, module) is not None
        except AdapterError as error:
            raise TrainingError(str(error)) from error

    return match


def _check_rank(config: TrainConfig, name: str, module: BaseModule, rank: int) -> None:
    served = 2 * rank if changes_base(config) else rank
    if served > MAX_RANK:
        raise TrainingError(
            f"module {name!r}: the adapter's rank would be {served}, servers take {MAX_RANK} at most"
        )
    if changes_base(config) and rank > (most := min(module.in_features, module.out_features)):
        raise TrainingError(
            f"module {name!r}: rank {rank} is above {most}, the most that init {config.init!r} has"
        )
    if config.init == "orthogonal" and rank % 2:
        raise TrainingError(
            f"module {name!r}: init 'orthogonal' needs an even rank, this is {rank}"
        )


def spread(
    budget: int, chosen: Mapping[str, BaseModule], step: int = 1
) -> tuple[int, dict[str, int]]:
    """Spend `budget` parameters of A and B on the chosen modules: (rank, rank_pattern).

    A module of rank r has r * (in + out) of them. Every kind of module (q_proj, v_proj, ...: the
    last part of its path) gets the largest rank that all can have; then those kinds get one more
    whose parameters together come closest to the budget from below. Ranks differ by one at most, as
    in the LoRA paper's comparison of weight types (arXiv:2106.09685, table 5), and are the same in
    all layers. With `step` all ranks are multiples of it and differ by it at most. Raises
    TrainingError for a budget below the lowest rank.
    """
    cost = {kind: step * each for kind, each in _cost_by_kind(chosen).items()}
    if len(cost) > _MAX_KINDS:
        raise TrainingError(
            f"a budget is spread over at most {_MAX_KINDS} kinds of modules, these are {len(cost)}"
        )
    rank, rest = divmod(budget, sum(cost.values()))
    if rank < 1:
        raise TrainingError(
            f"a budget of {budget} parameters is too small: rank {step} of {', '.join(cost)} takes "
            f"{sum(cost.values())}"
        )
    kinds = sorted(cost)
    subsets = itertools.chain.from_iterable(
        itertools.combinations(kinds, n) for n in range(len(kinds))
    )
    best = max(
        (s for s in subsets if sum(cost[k] for k in s) <= rest),
        key=lambda s: sum(cost[k] for k in s),
    )
    return step * rank, dict.fromkeys(best, step * (rank + 1))


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
