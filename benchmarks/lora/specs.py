"""What is run, in order of importance: one Spec per training run, shared by every experiment that
needs it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from . import data

QV = ("q_proj", "v_proj")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL = (*ATTENTION, "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Spec:
    """One run. `rank` 0 is no LoRA at all; `width` is the bottleneck adapters'; 0: there are none."""

    key: str
    task: str = "orders"
    seed: int = 0
    steps: int = 40
    rate: float = 3e-3
    init: str = "A"
    targets: tuple[str, ...] = QV
    rank: int = 8
    budget: int = 0
    """Instead of `rank`."""
    width: int = 0
    after: str = ""
    """Key of the run whose adapter is merged into the base first."""
    features: bool = False
    """Norms of A x and of the update are measured on the way."""

    def settings(self) -> dict[str, Any]:
        """As it is stored with the result, which counts only for the same settings."""
        fields = asdict(self)
        del fields["key"]
        return fields | {"targets": list(self.targets), "data": data.VERSION}

    def digest(self) -> str:
        """Of the settings: what a study of the run's weights remembers of it."""
        return hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Plan:
    """The size of everything: `FULL` is what docs/results/lora.md shows, `QUICK` goes the same ways
    in seconds."""

    steps: int = 40
    seeds: tuple[int, ...] = (0, 1)
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    rate: float = 3e-3
    ranks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    rank: int = 8
    budgets: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: {
            "q": ("q_proj",),
            "q, v": QV,
            "q, k, v, o": ATTENTION,
            "all seven": ALL,
        }
    )
    bottleneck_rates: tuple[float, ...] = (3e-3, 1e-3)
    train_rows: int = data.TRAIN_ROWS
    test_rows: int = data.TEST_ROWS

    def specs(self, budget: int, width: int) -> list[Spec]:
        """Every run once, what matters most first. `budget`: parameters of `rank` in q and v;
        `width`: of bottlenecks with as many.
        """
        first, *others = self.seeds
        ordered = [
            *self._inits(first),
            *self._ranks(first),
            *self._budgets(first, budget),
            *self._combined(first, width),
        ]
        for seed in others:
            ordered += [
                *self._inits(seed),
                *self._budgets(seed, budget),
                *self._bottlenecks(seed, width),
                *reversed(list(self._ranks(seed))),
            ]
        return ordered

    def _same(self, seed: int) -> dict[str, Any]:
        return {"seed": seed, "steps": self.steps, "rate": self.rate, "rank": self.rank}

    def _inits(self, seed: int) -> Iterator[Spec]:
        for rate in self.rates:
            for init in "AB":
                yield Spec(
                    init_key(init, rate, seed),
                    **self._same(seed) | {"rate": rate},
                    init=init,
                    features=True,
                )

    def _budgets(self, seed: int, budget: int) -> Iterator[Spec]:
        for name, targets in self.budgets.items():
            if targets != QV:
                yield Spec(
                    f"budget {name} s{seed}",
                    **self._same(seed) | {"rank": 0},
                    targets=targets,
                    budget=budget,
                )

    def _ranks(self, seed: int) -> Iterator[Spec]:
        for rank in self.ranks:
            if rank != self.rank:
                yield Spec(f"rank {rank} s{seed}", **self._same(seed) | {"rank": rank})

    def _combined(self, seed: int, width: int) -> Iterator[Spec]:
        yield Spec(f"bookings s{seed}", **self._same(seed), task="bookings")
        yield Spec(f"mixed s{seed}", **self._same(seed) | {"rank": 2 * self.rank}, task=data.MIXED)
        half = self._same(seed) | {"rank": self.rank // 2, "steps": self.steps // 2}
        first = Spec(f"first s{seed}", **half)
        yield first
        # other rows, in another order, than the first one saw
        yield Spec(f"second s{seed}", **half | {"seed": seed + 100}, after=first.key)
        yield from self._bottlenecks(seed, width)

    def _bottlenecks(self, seed: int, width: int) -> Iterator[Spec]:
        for rate in self.bottleneck_rates:
            yield Spec(
                bottleneck_key(rate, seed),
                **self._same(seed) | {"rank": 0, "rate": rate},
                width=width,
            )
        half = self._same(seed) | {"rank": self.rank // 2}
        yield Spec(f"LoRA and bottleneck s{seed}", **half, width=max(1, width // 2))


def init_key(init: str, rate: float, seed: int) -> str:
    return f"init {init} {rate:g} s{seed}"


def bottleneck_key(rate: float, seed: int) -> str:
    return f"bottleneck {rate:g} s{seed}"


FULL = Plan()
QUICK = Plan(
    steps=4,
    seeds=(0,),
    rates=(1e-2,),
    rate=1e-2,
    ranks=(1, 2),
    rank=2,
    train_rows=32,
    test_rows=4,
    budgets={"q": ("q_proj",), "q, v": QV},
    bottleneck_rates=(1e-2,),
)


def rank_key(plan: Plan, rank: int, seed: int) -> str:
    """The run with that rank in q and v."""
    return init_key("A", plan.rate, seed) if rank == plan.rank else f"rank {rank} s{seed}"


def budget_key(plan: Plan, name: str, seed: int) -> str:
    """The run with the budget in those projections."""
    return init_key("A", plan.rate, seed) if plan.budgets[name] == QV else f"budget {name} s{seed}"


def pairs(plan: Plan) -> dict[str, tuple[str, str]]:
    """Whose singular directions are compared.

    The first two have one seed, so the same rows in the same order; their A start from other random
    numbers all the same, for a larger A takes more of them.
    """
    one, other = plan.seeds[0], plan.seeds[-1]
    top = max(plan.ranks)
    found = {
        f"rank {plan.rank} and {top}": (rank_key(plan, plan.rank, one), rank_key(plan, top, one))
    }
    if one != other:
        found[f"rank {top}, two seeds"] = (rank_key(plan, top, one), rank_key(plan, top, other))
    return found


Weights = Sequence[tuple[str, float]]


def compositions(plan: Plan) -> dict[str, Weights]:
    """What is served on both tasks: names for the tables, and (key of a run, weight) pairs."""
    orders, bookings = init_key("A", plan.rate, 0), "bookings s0"
    return {
        "base": (),
        "orders": ((orders, 1.0),),
        "bookings": ((bookings, 1.0),),
        "both, weights 1": ((orders, 1.0), (bookings, 1.0)),
        "both, weights 0.7": ((orders, 0.7), (bookings, 0.7)),
        "both, weights 0.5": ((orders, 0.5), (bookings, 0.5)),
        "one adapter of both tasks": (("mixed s0", 1.0),),
        "first": (("first s0", 1.0),),
        "first and second": (("first s0", 1.0), ("second s0", 1.0)),
    }
