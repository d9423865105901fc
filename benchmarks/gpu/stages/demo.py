"""The demo on this device: a real base and the example adapters, in one batch, against the CPU's
tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.carried import base
from benchmarks.gpu.real_base import Answer, Answers, answers, equal_tokens, expected
from benchmarks.gpu.session.context import Context

NEAR_TIE = 0.5
"""Of log probability: a few steps of bfloat16 between this model's logits, which are about 20.
Where float32 finds the two best tokens closer than this, bfloat16 may take the other one, and the
texts part; a wrong kernel takes one that is far behind."""


@dataclass(frozen=True)
class Way:
    """How the questions are asked; `exact`: every token must be the CPU's."""

    name: str
    exact: bool
    config: Mapping[str, Any]


WAYS = (
    Way("float32 without graphs", True, {"dtype": "float32", "cuda_graphs": False}),
    Way("float32", True, {"dtype": "float32"}),
    Way("bfloat16", False, {"dtype": "bfloat16"}),
)
ON_A_CPU = (Way("float32", True, {"dtype": "float32", "kernels": "auto"}),)


def run(context: Context) -> None:
    """In float32 every token must be the CPU's; in bfloat16, as it is served, up to the first near
    tie."""
    directory = base(context.carried)
    wanted = expected(context.carried, directory)
    for way in WAYS if context.real else ON_A_CPU:
        if not context.has(way.name):
            _compare(
                context, way, answers(directory, device=context.device_name, **way.config), wanted
            )


def _compare(context: Context, way: Way, found: Answers, wanted: list[Answer]) -> None:
    shares = []
    for ours, theirs in zip(found.answers, wanted, strict=True):
        equal = equal_tokens(ours["token_ids"], theirs["token_ids"])
        shares.append(equal / max(1, len(theirs["token_ids"])))
        same, told = ours["token_ids"] == theirs["token_ids"], dict[str, Any]()
        if not same:
            margin = theirs["margins"][equal] if equal < len(theirs["margins"]) else float("inf")
            told = {"margin": margin, "text": ours["text"], "expected": theirs["text"]}
        near = same or (not way.exact and told["margin"] < NEAR_TIE and bool(ours["text"].strip()))
        context.emit(
            f"{way.name}: {ours['adapter'] or 'base'}: {ours['question']}",
            same=same,
            equal_tokens=equal,
            tokens=len(ours["token_ids"]),
            good=near,
            **told,
        )
    tokens = sum(len(answer["token_ids"]) for answer in found.answers)
    # Last: a lease that goes on from this one takes it for the whole way.
    context.emit(
        way.name,
        equal_share=sum(shares) / len(shares),
        tokens_per_s=tokens / found.wall_s,
        wall_s=found.wall_s,
        load_base_s=found.load_base_s,
        load_adapter_s=found.load_adapter_s,
        kernels=found.kernels,
    )
