"""The whole Triton backend, on a CPU interpreted: one mixed batch, each request as PEFT gives it
alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from lora_runtime import Engine, EngineConfig, Request, SamplingParams, WeightedAdapter

from ....support.adapters import save_adapter
from ....support.backends import fused_of
from ....support.device import DEVICE
from ....support.device_path import record_launches
from ....support.engines import runner_of
from ....support.models import save_base
from ....support.reference import Expected, LogitsRecorder, PeftReference, relative_error
from ....support.slow import slow_but

ATTENTION = {"llama": "q_proj", "qwen2": "v_proj", "gemma3": "k_proj", "gpt2": "c_attn"}
MLP = {"llama": "up_proj", "qwen2": "down_proj", "gemma3": "gate_proj", "gpt2": "c_fc"}
EMBEDDING = {"gpt2": "wte"}
NORM = {"gpt2": "ln_f"}
PLANNED: dict[str, Callable[[str], dict[str, Any]]] = {
    "lora": lambda a: {"r": 5, "target_modules": [ATTENTION[a], MLP[a]]},
    "lora too": lambda a: {"r": 2, "target_modules": [ATTENTION[a]]},
    "dora": lambda a: {"r": 3, "use_dora": True, "target_modules": "all-linear"},
    "bias": lambda a: {"r": 2, "bias": "lora_only", "target_modules": [ATTENTION[a]]},
    "head": lambda a: {"target_modules": [MLP[a]], "modules_to_save": ["lm_head"]},
}
RARE: dict[str, Callable[[str], dict[str, Any]]] = {
    "embedding": lambda a: {
        "target_modules": [MLP[a]],
        "modules_to_save": [EMBEDDING.get(a, "embed_tokens"), NORM.get(a, "norm")],
    },
}
LAYERS = {"llama": 1, "qwen2": 1, "gemma3": 2, "gpt2": 1}  # Gemma's two differ
MIX = (("lora", 0.7), ("lora too", -0.4))
PROMPT = tuple(b"a prompt of two blocks")
SHORT = 12  # prompts begin behind so many: only some reach a second block
TOKENS = 3
FEWER = {"lora", "dora", "bias", "embedding", ""}
"""Of the architectures but the first: the interpreter is slow."""


@pytest.mark.parametrize("architecture", slow_but(["qwen2"], ATTENTION))
def test_a_mixed_batch_equals_peft_alone(architecture: str, tmp_path: Path) -> None:
    base_dir = save_base(tmp_path / "base", architecture, layers=LAYERS[architecture])
    chosen = [k for k in [*PLANNED, *RARE, "", "mix"] if architecture == "llama" or k in FEWER]
    adapters = {
        key: save_adapter(
            base_dir,
            tmp_path / key.replace(" ", "_"),
            seed=i,
            fan_in_fan_out=architecture == "gpt2",
            **{"r": 4} | make(architecture),
        )
        for i, (key, make) in enumerate((PLANNED | RARE).items())
        if key in chosen
    }
    prompts = {key: PROMPT[3 * i if i < 2 else SHORT + i % 3 :] for i, key in enumerate(chosen)}
    expected = _expected(base_dir, adapters, prompts)
    slots = len(adapters) - 1  # one has to wait until another has left
    config = EngineConfig(
        device=DEVICE,
        dtype="float32",
        kernels="triton",
        kv_cache_bytes=1 << 20,
        max_running=8,
        max_batch_tokens=160,
        max_adapters=slots,
    )
    with Engine(base_dir, config) as engine:
        launched = record_launches(runner_of(engine))
        recorder = LogitsRecorder(engine)
        for key, path in adapters.items():
            engine.load_adapter(path, key)
        handles = {
            key: engine.submit(_request(key, prompts[key], len(expected[key].tokens)))
            for key in expected
        }
        for key, handle in handles.items():
            assert list(handle.result().choices[0].token_ids) == expected[key].tokens, key
            assert relative_error(recorder.of(key or "base"), expected[key].logits) < 1e-4, key
        assert engine.info().kernels["lora"] == "triton"
        assert any(key.lora for key in launched)
        assert engine.stats().adapters <= slots
        for key in adapters:
            engine.unload_adapter(key, timeout_s=10)
        placer = fused_of(engine.base).placer
        assert placer is not None
        placer.flush()
        assert not placer.table.addresses.any()


def _expected(
    base_dir: Path, adapters: Mapping[str, Path], prompts: Mapping[str, tuple[int, ...]]
) -> dict[str, Expected]:
    """What needs the hooks ends first: the others then decode in the fixed buffers."""
    found = {}
    for key, path in adapters.items():
        found[key] = PeftReference(base_dir, {"it": path}).greedy(
            "it", prompts[key], 2 if key in RARE else TOKENS
        )
    plain = PeftReference(
        base_dir, {key.replace(" ", "_"): adapters[key] for key, _ in MIX if key in adapters}
    )
    found[""] = plain.greedy("", prompts[""], TOKENS)
    if "mix" not in prompts:
        return found
    plain.add_composition("mix", [(key.replace(" ", "_"), weight) for key, weight in MIX])
    found["mix"] = plain.greedy("mix", prompts["mix"], TOKENS)
    return found


def _request(key: str, prompt: tuple[int, ...], tokens: int) -> Request:
    mix = tuple(WeightedAdapter(name, weight) for name, weight in MIX) if key == "mix" else ()
    return Request(
        token_ids=prompt,
        adapter_id="" if mix else key,
        adapters=mix,
        request_id=key or "base",
        sampling=SamplingParams(max_new_tokens=tokens, ignore_eos=True),
    )
