"""What is looked at after the runs: singular directions of the trained adapters, and adapters served together."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from . import data
from .evaluate import examples, merged, score, served, updates
from .runs import Place
from .specs import Plan, compositions, pairs, rank_key
from .subspace import directions_of_a, directions_of_update, phi, singular_values

_KINDS = ("q_proj", "v_proj")
_DIGITS = 3


def overlap(plan: Plan, place: Place) -> dict[str, Any]:
    """phi of every pair of `pairs`: all of it in a middle layer, and its mean over layers along the diagonal."""
    found: dict[str, Any] = {}
    for name, (one, other) in pairs(plan).items():
        first, second = (updates(place.adapter(key)) for key in (one, other))
        by_kind = {}
        for kind in _KINDS:
            layers = [path for path in first if path.endswith(kind)]
            maps = {what: [_phi(first[p], second[p], what) for p in layers] for what in ("A", "BA")}
            middle = len(layers) // 2
            by_kind[kind] = {
                "layer": middle, "width": first[layers[0]][0].shape[1],
                **{what: _rounded(m[middle]) for what, m in maps.items()},
                **{f"{what} mean": _rounded(torch.stack(m).mean(0).diagonal()) for what, m in maps.items()},
            }
        found[name] = {"runs": [one, other]} | by_kind
    top = updates(place.adapter(rank_key(plan, max(plan.ranks), plan.seeds[0])))
    spectra = {kind: torch.stack([singular_values(*top[p]) for p in top if p.endswith(kind)]) for kind in _KINDS}
    shares = {k: _rounded((s.square() / s.square().sum(-1, keepdim=True)).mean(0)) for k, s in spectra.items()}
    return {"pairs": found, "random": _random(plan, found), "energy": shares}


def _phi(one: tuple[torch.Tensor, torch.Tensor], other: tuple[torch.Tensor, torch.Tensor], what: str) -> torch.Tensor:
    if what == "A":
        return phi(directions_of_a(one[0]), directions_of_a(other[0]))
    return phi(directions_of_update(*one), directions_of_update(*other))


def _random(plan: Plan, found: dict[str, Any]) -> dict[str, Any]:
    """The same for Gaussian matrices."""
    width = next(iter(found.values()))["q_proj"]["width"]
    generator = torch.Generator().manual_seed(0)
    top = max(plan.ranks)
    one, small, other = (torch.randn(r, width, generator=generator) for r in (top, plan.rank, top))
    u, s, v = (directions_of_a(m) for m in (one, small, other))
    return {"small": _rounded(phi(s, v).diagonal()), "top": _rounded(phi(u, v).diagonal())}


def composed(plan: Plan, place: Place) -> dict[str, Any]:
    """Every composition on both tasks: loss with the sum in the weights, and the answers of loramux's engine."""
    torch.set_num_threads(1)
    mixes = compositions(plan)
    losses: dict[str, dict[str, Any]] = {}
    model: Any = AutoModelForCausalLM.from_pretrained(place.base, dtype=torch.float32)
    for name, mix in mixes.items():
        with merged(model, [(place.adapter(key), weight) for key, weight in mix]):
            for task in data.TASKS:
                result = score(model, examples(place.base, model, task, "test", place.test_rows))
                losses.setdefault(name, {})[task] = {"loss": round(result.loss, 5), "exact": round(result.exact, 5)}
    del model
    for (name, task), share in _served_shares(mixes, place).items():
        losses[name][task]["served"] = round(share, 5)
    return losses


def _served_shares(mixes: dict[str, Any], place: Place) -> dict[tuple[str, str], float]:
    """Share of right answers by (composition, task)."""
    keys = sorted({key for mix in mixes.values() for key, _ in mix})
    asked = [(name, task, row) for name in mixes for task in data.TASKS
             for row in data.rows(task, "test")[: place.test_rows]]
    requests = [([(keys.index(key), weight) for key, weight in mixes[name]], row.prompt) for name, _, row in asked]
    answers = served(place.base, [place.adapter(key) for key in keys], requests, threads=1)
    right: dict[tuple[str, str], list[bool]] = {}
    for (name, task, row), answer in zip(asked, answers, strict=True):
        right.setdefault((name, task), []).append(answer == row.completion)
    return {place_: sum(found) / len(found) for place_, found in right.items()}


def _rounded(tensor: torch.Tensor) -> Any:
    return [[round(x, _DIGITS) for x in row] for row in tensor.tolist()] if tensor.ndim == 2 else \
        [round(x, _DIGITS) for x in tensor.tolist()]
