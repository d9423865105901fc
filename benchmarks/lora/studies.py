"""What is looked at after the runs: singular directions of the trained adapters, and adapters
served together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from . import data
from .evaluate import examples, merged, score, served, updates
from .runs import Place
from .specs import Plan, compositions, pairs
from .subspace import directions_of_a, directions_of_update, phi, singular_values

_KINDS = ("q_proj", "v_proj")
_DIGITS = 3


def overlap(plan: Plan, place: Place, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """phi of the named ones of `pairs`: all of it in a middle layer, and its mean over layers along
    the diagonal."""
    found: dict[str, dict[str, Any]] = {}
    for name, (one, other) in ((n, p) for n, p in pairs(plan).items() if n in names):
        first, second = (updates(place.adapter(key)) for key in (one, other))
        by_kind = {}
        for kind in _KINDS:
            layers = [path for path in first if path.endswith(kind)]
            maps = {what: [_phi(first[p], second[p], what) for p in layers] for what in ("A", "BA")}
            middle = len(layers) // 2
            by_kind[kind] = {
                "layer": middle,
                "width": first[layers[0]][0].shape[1],
                **{what: _rounded(m[middle]) for what, m in maps.items()},
                **{
                    f"{what} mean": _rounded(torch.stack(m).mean(0).diagonal())
                    for what, m in maps.items()
                },
                "random": _random(*(update[layers[0]][0] for update in (first, second))),
                "energy": _energy([second[p] for p in layers]),
            }
        found[name] = by_kind
    return found


def _energy(modules: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Any:
    """Share of |B A|^2 in every singular direction, mean over modules."""
    squares = torch.stack([singular_values(a, b) for a, b in modules]).square()
    return _rounded((squares / squares.sum(-1, keepdim=True)).mean(0))


def _phi(
    one: tuple[torch.Tensor, torch.Tensor], other: tuple[torch.Tensor, torch.Tensor], what: str
) -> torch.Tensor:
    if what == "A":
        return phi(directions_of_a(one[0]), directions_of_a(other[0]))
    return phi(directions_of_update(*one), directions_of_update(*other))


def _random(one: torch.Tensor, other: torch.Tensor) -> Any:
    """The diagonal of phi for Gaussian matrices of the same shapes."""
    generator = torch.Generator().manual_seed(0)
    first, second = (
        directions_of_a(torch.randn(m.shape, generator=generator)) for m in (one, other)
    )
    return _rounded(phi(first, second).diagonal())


def composed(plan: Plan, place: Place, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The named ones of `compositions` on both tasks: loss with the sum in the weights, and what
    the engine answers."""
    torch.set_num_threads(1)
    mixes = {name: mix for name, mix in compositions(plan).items() if name in names}
    losses: dict[str, dict[str, Any]] = {}
    model: Any = AutoModelForCausalLM.from_pretrained(place.base, dtype=torch.float32)
    for name, mix in mixes.items():
        with merged(model, [(place.adapter(key), weight) for key, weight in mix]):
            for task in data.TASKS:
                result = score(model, examples(place.base, model, task, "test", place.test_rows))
                losses.setdefault(name, {})[task] = {
                    "loss": round(result.loss, 5),
                    "exact": round(result.exact, 5),
                }
    del model
    for (name, task), share in _served_shares(mixes, place).items():
        losses[name][task]["served"] = round(share, 5)
    return losses


def _served_shares(mixes: dict[str, Any], place: Place) -> dict[tuple[str, str], float]:
    """Share of right answers by (composition, task)."""
    keys = sorted({key for mix in mixes.values() for key, _ in mix})
    asked = [
        (name, task, row)
        for name in mixes
        for task in data.TASKS
        for row in data.rows(task, "test")[: place.test_rows]
    ]
    requests = [
        ([(keys.index(key), weight) for key, weight in mixes[name]], row.prompt)
        for name, _, row in asked
    ]
    answers = served(place.base, [place.adapter(key) for key in keys], requests, threads=1)
    right: dict[tuple[str, str], list[bool]] = {}
    for (name, task, row), answer in zip(asked, answers, strict=True):
        right.setdefault((name, task), []).append(answer == row.completion)
    return {place_: sum(found) / len(found) for place_, found in right.items()}


def _rounded(tensor: torch.Tensor) -> Any:
    return (
        [[round(x, _DIGITS) for x in row] for row in tensor.tolist()]
        if tensor.ndim == 2
        else [round(x, _DIGITS) for x in tensor.tolist()]
    )
