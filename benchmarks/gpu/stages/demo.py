"""The demo on this device: a real base and the example adapters, in one batch, against the CPU's tokens."""

from __future__ import annotations

from pathlib import Path

from benchmarks.gpu.carried import base
from benchmarks.gpu.real_base import Answer, Answers, answers, equal_tokens, expected, questions
from benchmarks.gpu.session.context import Context


def run(context: Context) -> None:
    """In float32 every token must be the CPU's. In bfloat16, as it is served, two logits that are nearly equal may
    change places, and the texts part there: that is told, and not wrong."""
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
        told = {} if same else {"text": ours["text"], "expected": theirs["text"]}
        context.emit(f"{label}: {ours['adapter'] or 'base'}: {ours['question']}", same=same, equal_tokens=equal,
                     tokens=len(ours["token_ids"]), good=same if exact else bool(ours["text"]), **told)
    tokens = sum(len(answer["token_ids"]) for answer in found.answers)
    context.emit(label, equal_share=sum(shares) / len(shares), tokens_per_s=tokens / found.wall_s,
                 wall_s=found.wall_s, load_base_s=found.load_base_s, load_adapter_s=found.load_adapter_s,
                 kernels=found.kernels)
