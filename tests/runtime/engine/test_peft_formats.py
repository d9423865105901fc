"""Every PEFT format from its files through the engine: one mixed batch, each request as PEFT gives
it alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lora_runtime import BaseModel, Engine, EngineConfig, Request, SamplingParams, WeightedAdapter

from ...support.adapters import save_adapter
from ...support.backends import program_of
from ...support.device import PATHS
from ...support.models import make_tokenizer, save_base
from ...support.reference import LogitsRecorder, PeftReference, relative_error
from ...support.slow import slow_but

TOKENS = 6
SAMPLING = SamplingParams(max_new_tokens=TOKENS, ignore_eos=True)
PROMPTS = ["a prompt of more than one block, FF", "zzFF"]


def token_ids(text: str) -> list[int]:
    return make_tokenizer()(text)["input_ids"]


@dataclass(frozen=True)
class Names:
    """Modules of an architecture."""

    attention: str
    mlp: str
    embedding: str
    norm: str


NAMES = {
    "llama": Names("q_proj", "up_proj", "embed_tokens", "input_layernorm"),
    "qwen2": Names("v_proj", "down_proj", "embed_tokens", "norm"),
    "gemma3": Names("k_proj", "gate_proj", "embed_tokens", "q_norm"),
    "gpt2": Names("c_attn", "c_fc", "wte", "ln_f"),
}
FORMATS: dict[str, Callable[[Names], dict[str, Any]]] = {
    "lora": lambda n: {"r": 5, "target_modules": [n.attention, n.mlp]},
    "lora too": lambda n: {"r": 2, "target_modules": [n.attention]},
    "all-linear": lambda n: {"r": 3, "target_modules": "all-linear", "exclude_modules": [n.mlp]},
    "rslora": lambda n: {"use_rslora": True, "target_modules": [n.mlp], "rank_pattern": {n.mlp: 3}},
    "dora": lambda n: {"use_dora": True, "target_modules": [n.attention, n.mlp]},
    "bias all": lambda n: {"bias": "all", "target_modules": [n.attention]},
    "bias lora_only": lambda n: {"bias": "lora_only", "target_modules": [n.attention, n.mlp]},
    "lora_bias": lambda n: {"lora_bias": True, "target_modules": [n.mlp]},
    "saved lm_head": lambda n: {"target_modules": [n.attention], "modules_to_save": ["lm_head"]},
    "saved embedding and norms": lambda n: {
        "target_modules": [n.mlp],
        "modules_to_save": [n.embedding, n.norm],
    },
    "embedding and lm_head": lambda n: {"target_modules": [n.embedding, "lm_head", n.mlp]},
    "tokens": lambda n: {"target_modules": [n.mlp], "trainable_token_indices": token_ids("pzF")},
    "layers": lambda n: {"target_modules": [n.attention, n.mlp], "layers_to_transform": [0, 2]},
}
INVOCATION = "FF"
MIX = (("lora", 0.7), ("lora too", -0.4))


@dataclass
class Case:
    bases: dict[str, BaseModel]
    adapters: dict[str, Path]
    prompts: list[tuple[int, ...]]
    expected: dict[tuple[str, tuple[int, ...]], Any]


@pytest.fixture(scope="module", params=slow_but(["llama", "gpt2"], NAMES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    root = tmp_path_factory.mktemp(request.param)
    base, names = save_base(root / "base", request.param), NAMES[request.param]
    made = {key: make(names) for key, make in FORMATS.items()} | {
        "activated": {
            "target_modules": [names.attention],
            "alora_invocation_tokens": token_ids(INVOCATION),
        }
    }
    adapters = {
        key: save_adapter(
            base,
            root / key.replace(" ", "_"),
            seed=i,
            r=lora.pop("r", 4),
            **lora,
            fan_in_fan_out=request.param == "gpt2",
        )
        for i, (key, lora) in enumerate(made.items())
    }
    bases = {k: BaseModel.load(base, dtype="float32", **how) for k, how in PATHS.items()}
    assert program_of(bases["cpp"]) is not None
    prompts = [tuple(token_ids(p)) for p in PROMPTS]
    expected = {}
    for key, path in adapters.items():
        # One PEFT model for each: saved modules and biases do not come apart again in one that has
        # several.
        reference = PeftReference(base, {"it": path})
        for prompt in prompts:
            expected[key, prompt] = reference.greedy("it", prompt, TOKENS)
            if key == "lora":
                expected["", prompt] = reference.greedy("", prompt, TOKENS)
    plain = PeftReference(base, {key.replace(" ", "_"): adapters[key] for key, _ in MIX})
    plain.add_composition("mix", [(key.replace(" ", "_"), weight) for key, weight in MIX])
    for prompt in prompts:
        expected["mix", prompt] = plain.greedy("mix", prompt, TOKENS)
    return Case(bases, adapters, prompts, expected)


@pytest.mark.parametrize("kernels", PATHS)
@pytest.mark.parametrize("max_batch_tokens", [512, 40])
def test_one_batch_of_every_format_equals_peft_alone(
    case: Case, kernels: str, max_batch_tokens: int
) -> None:
    config = EngineConfig(
        dtype="float32",
        kv_cache_bytes=16 << 20,
        max_running=40,
        max_batch_tokens=max_batch_tokens,
        prefix_caching=False,
    )
    with Engine(case.bases[kernels], config) as engine:
        for key, path in case.adapters.items():
            engine.load_adapter(path, key)
        recorder = LogitsRecorder(engine)
        mix = tuple(WeightedAdapter(key, weight) for key, weight in MIX)
        handles = {
            (key, prompt): engine.submit(
                Request(
                    token_ids=prompt,
                    adapter_id="" if key == "mix" else key,
                    adapters=mix if key == "mix" else (),
                    sampling=SAMPLING,
                    request_id=f"{key}/{prompt}",
                )
            )
            for key, prompt in case.expected
        }
        for (key, prompt), expected in case.expected.items():
            assert list(handles[key, prompt].result().choices[0].token_ids) == expected.tokens, key
            assert relative_error(recorder.of(f"{key}/{prompt}"), expected.logits) < 1e-4, key


def test_the_formats_differ(case: Case) -> None:
    """Guards the test above: equal outputs everywhere would show nothing."""
    first = {
        tuple(e.logits[0].tolist())
        for (_, prompt), e in case.expected.items()
        if prompt == case.prompts[0]
    }
    assert len(first) == len(case.adapters) + 2


def test_the_report_names_the_parts(case: Case) -> None:
    config = EngineConfig(dtype="float32", kv_cache_bytes=16 << 20)
    with Engine(case.bases["cpp"], config) as engine:
        parts = {
            key: {p for m in engine.load_adapter(path, key).modules for p in m.parts}
            for key, path in case.adapters.items()
        }
    for key, part in {
        "lora": "lora",
        "rslora": "rslora",
        "dora": "dora",
        "lora_bias": "lora_bias",
        "saved lm_head": "weight",
        "tokens": "tokens",
    }.items():
        assert part in parts[key], key
