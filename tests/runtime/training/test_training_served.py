"""What was trained is what is served: the engine's logits of every start and kind beside the
trained PEFT model's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_runtime import Engine, EngineConfig, Request, SamplingParams
from lora_runtime.training import StepReport, train

from ...support.models import make_tokenizer, save_base
from ...support.reference import LogitsRecorder, PeftReference, relative_error
from ...support.training import make_config

PROMPT = tuple(make_tokenizer()("who is it this time?")["input_ids"])
STARTS = ("A", "B", "gaussian", "orthogonal", "pissa", "pissa_niter_4", "olora")
KINDS: dict[str, dict[str, Any]] = {init: {"init": init} for init in STARTS} | {
    "pissa with dora": {"init": "pissa", "dora": True},
    "pissa with rslora": {"init": "pissa", "rslora": True, "rank_pattern": {"v_proj": 6}},
    "olora with patterns": {
        "init": "olora",
        "rank_pattern": {"v_proj": 3},
        "alpha_pattern": {"v_proj": 5},
        "alpha": 7,
    },
    "patterns out of the alphabet's order": {
        "rank_pattern": {"q_proj": 2},
        "alpha": 4,
        "alpha_pattern": {"v_proj": 9, "layers.0.self_attn.q_proj": 20, "q_proj": 3},
    },
    "orthogonal with a budget": {"init": "orthogonal", "budget": 3000},
    "B with dora": {"init": "B", "dora": True, "budget": 4000, "targets": "all-linear"},
}


@dataclass(frozen=True)
class Trained:
    """An adapter and the logits (prompt tokens, vocabulary) of the PeftModel that it was trained
    as."""

    adapter: Path
    logits: torch.Tensor


def run(base: Path, directory: Path, **fields: Any) -> Trained:
    seen = []

    def on_step(report: StepReport) -> None:
        if report.step == report.total_steps:
            with torch.inference_mode():
                report.model.eval()
                seen.append(report.model(input_ids=torch.tensor([PROMPT])).logits[0])

    directory.mkdir(exist_ok=True)
    return Trained(
        train(make_config(base, directory, save_every=0, **fields), on_step=on_step).adapter,
        seen[0],
    )


def served(engine: Engine, adapter: Path, name: str) -> torch.Tensor:
    """Logits behind the whole prompt (vocabulary,)."""
    if name:
        engine.load_adapter(adapter, name)
    recorder = LogitsRecorder(engine)
    engine.generate(
        Request(
            token_ids=PROMPT,
            adapter_id=name,
            request_id=name or "base",
            sampling=SamplingParams(max_new_tokens=1, ignore_eos=True),
        )
    )
    return recorder.of(name or "base")[0]


@pytest.fixture(scope="module")
def engine(tiny_base: Path) -> Iterator[Engine]:
    config = EngineConfig(
        dtype="float32", kv_cache_bytes=8 << 20, max_running=16, max_batch_tokens=128
    )
    with Engine(tiny_base, config) as engine:
        yield engine


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_answers_as_the_trained_model(
    engine: Engine, tiny_base: Path, tmp_path: Path, kind: str
) -> None:
    trained = run(tiny_base, tmp_path, **KINDS[kind])
    logits = served(engine, trained.adapter, kind)
    base = served(engine, trained.adapter, "")
    assert relative_error(logits, trained.logits[-1]) < 1e-4
    assert relative_error(logits, base) > 0.05  # it has learned something that must not be lost
    reference = PeftReference(tiny_base, {"it": trained.adapter}).greedy("it", PROMPT, 1)
    assert relative_error(reference.logits[0], trained.logits[-1]) < 1e-4


@pytest.mark.parametrize("init", STARTS)
def test_an_untrained_adapter_is_the_base(
    engine: Engine, tiny_base: Path, tmp_path: Path, init: str
) -> None:
    """Starts that move part of the base into A and B come out as adapters that change nothing."""
    trained = run(tiny_base, tmp_path, init=init, learning_rate=1e-12, weight_decay=0, max_steps=1)
    assert (
        relative_error(
            served(engine, trained.adapter, f"untrained {init}"), served(engine, Path(), "")
        )
        < 1e-5
    )


def test_conv1d_bases(tmp_path: Path) -> None:
    base = save_base(tmp_path / "gpt2", "gpt2")
    with Engine(base, EngineConfig(dtype="float32", kv_cache_bytes=8 << 20)) as engine:
        for init in ("B", "pissa"):
            trained = run(base, tmp_path / init, init=init, targets=("c_attn", "c_proj"))
            assert relative_error(served(engine, trained.adapter, init), trained.logits[-1]) < 1e-4
    with pytest.raises(Exception, match="init 'olora' is not possible: PEFT does not know it"):
        run(base, tmp_path / "olora", init="olora", targets=("c_attn",))
