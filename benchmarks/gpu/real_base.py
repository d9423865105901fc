"""A real base with the example adapters: the demo's questions, asked all at once."""

from __future__ import annotations

import ast
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.session.context import Unavailable
from lora_runtime import ChatMessage, Engine, EngineConfig, Request, SamplingParams

ROOT = Path(__file__).parents[2]
ADAPTERS = ("pirate", "json", "sentiment")
TOKENS = 48
Answer = dict[str, Any]
"""adapter, question, token_ids, text; margins: the best token's log probability less the second's,
at each"""


@dataclass(frozen=True)
class Answers:
    """`answers` by adapter ("" is the base) and question, in this order; and what it took."""

    answers: list[Answer]
    kernels: dict[str, str]
    load_base_s: float
    load_adapter_s: float
    """Each, on average."""
    wall_s: float
    """Of all answers, which run together."""


def questions() -> list[str]:
    """Those of examples/demo.py, which imports what a borrowed machine lacks."""
    tree = ast.parse((ROOT / "examples/demo.py").read_text(encoding="utf-8"))
    values = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and [target.id for target in node.targets if isinstance(target, ast.Name)] == ["QUESTIONS"]
    ]
    return list(ast.literal_eval(values[0]))


def asked() -> str:
    """A hash of the questions and of the adapters that they are asked."""
    digest = hashlib.sha256(json.dumps([questions(), TOKENS]).encode())
    for name in ADAPTERS:
        digest.update(
            (ROOT / "examples/adapters" / name / "adapter_model.safetensors").read_bytes()
        )
    return digest.hexdigest()


def answers(base: Path, *, margins: bool = False, **config: Any) -> Answers:
    """Greedy answers of the base and of each example adapter; `config`: of the engine. `margins`
    costs time."""
    started = time.perf_counter()
    with Engine(
        base, EngineConfig(kv_cache_bytes=256 << 20, max_running=16, max_context=512, **config)
    ) as engine:
        loaded = time.perf_counter()
        for name in ADAPTERS:
            engine.load_adapter(ROOT / "examples/adapters" / name, name)
        adapted = time.perf_counter()
        engine.warm_up()
        pairs = [(name, question) for name in ("", *ADAPTERS) for question in questions()]
        begun = time.perf_counter()
        sampling = SamplingParams(max_new_tokens=TOKENS, logprobs=2 if margins else None)
        handles = [
            engine.submit(
                Request(
                    messages=(ChatMessage("user", question),), adapter_id=name, sampling=sampling
                )
            )
            for name, question in pairs
        ]
        choices = [handle.result().choices[0] for handle in handles]
        wall, kernels = time.perf_counter() - begun, dict(engine.info().kernels)
    found = [
        {
            "adapter": name,
            "question": question,
            "token_ids": list(choice.token_ids),
            "text": choice.text,
            "margins": [token.top[0][1] - token.top[1][1] for token in choice.logprobs],
        }
        for (name, question), choice in zip(pairs, choices, strict=True)
    ]
    return Answers(found, kernels, loaded - started, (adapted - loaded) / len(ADAPTERS), wall)


def expected(carried: Path, base: Path) -> list[Answer]:
    """What a CPU gave where the parts were made; on a machine without them, what torch on this CPU
    gives."""
    path = carried / "expected.json"
    if path.is_file():
        found = json.loads(path.read_text())
        if not isinstance(found, dict) or found.get("asked") != asked():
            raise Unavailable(f"{path} is of other questions or adapters: make it anew")
        return list(found["answers"])
    return on_this_cpu(base)


def on_this_cpu(base: Path) -> list[Answer]:
    """What torch gives in float32."""
    return answers(base, margins=True, device="cpu", dtype="float32", kernels="torch").answers


def equal_tokens(found: Sequence[int], wanted: Sequence[int]) -> int:
    """How many of the first tokens are equal."""
    return next(
        (i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b),
        min(len(found), len(wanted)),
    )
