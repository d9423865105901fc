"""The demo on this device: a real base and the example adapters, in one batch, against the CPU's tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.gpu.carried import base
from benchmarks.gpu.real_base import Answer, Answers, answers, equal_tokens, expected, questions
from benchmarks.gpu.session.context import Context

NEAR_TIE = 0.5
"""Of log probability: a few steps of bfloat16 between this model's logits, which are about 20. Where float32 finds the
two best tokens closer than this, bfloat16 may take the other one, and the texts part; a wrong kernel takes one that is
far behind."""


def run(context: Context) -> None:
    """In float32 every token must be the CPU's; in bfloat16, as it is served, up to the first near tie."""
    directory = base(context.carried)
    wanted = expected(context.carried, directory)
    if context.real:
        for graphs in (True, False):
            label = "float32" if graphs else "float32 without graphs"
            _compare(context, label, _ask(context, directory, dtype="float32", cuda_graphs=graphs), wanted, exact=True)
        _compare(context, "bfloat16", _ask(context, directory, dtype="bfloat16"), wanted, exact=False)
    else:
        _compare(context, "float32", _ask(context, directory, dtype="float32", kernels="auto"), wanted, exact=True)


def _ask(context: Context, directory: Path, **config: object) -> Answers:
    return answers(directory, questions(), device=context.device_name, **config)


def _compare(context: Context, label: str, found: Answers, wanted: list[Answer], *, exact: bool) -> None:
    shares = []
    for ours, theirs in zip(found.answers, wanted, strict=True):
        equal = equal_tokens(ours["token_ids"], theirs["token_ids"])
        same = ours["token_ids"] == theirs["token_ids"]
        shares.append(equal / max(1, len(theirs["token_ids"])))
        told: dict[str, Any] = {}
        if not same:
            margin = theirs["margins"][equal] if equal < len(theirs["margins"]) else float("inf")
            told = {"margin": margin, "text": ours["text"], "expected": theirs["text"]}
        near = same or (not exact and told["margin"] < NEAR_TIE)
        context.emit(f"{label}: {ours['adapter'] or 'base'}: {ours['question']}", same=same, equal_tokens=equal,
                     tokens=len(ours["token_ids"]), good=near, **told)
    tokens = sum(len(answer["token_ids"]) for answer in found.answers)
    context.emit(label, equal_share=sum(shares) / len(shares), tokens_per_s=tokens / found.wall_s,
                 wall_s=found.wall_s, load_base_s=found.load_base_s, load_adapter_s=found.load_adapter_s,
                 kernels=found.kernels)
