"""Every row of a mixed batch equals what PEFT gives for that adapter alone, on every architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lora_runtime import BaseModel, Engine, EngineConfig, Request, SamplingParams
from lora_runtime.kv_cache import KVCache

from ...support.adapters import save_adapter
from ...support.backends import program_of
from ...support.device import PATHS
from ...support.models import ARCHITECTURES, save_base
from ...support.reference import Expected, LogitsRecorder, PeftReference, relative_error
from ...support.slow import slow_but

TOKENS = 14
TOLERANCE = 1e-4
SHARED = "A prefix that several of the requests share, longer than a few blocks. "
PROMPTS = [
    "Hi",
    SHARED + "One.",
    "The quick brown fox jumps over the lazy dog",
    SHARED + "Another.",
]


@dataclass(frozen=True)
class Names:
    """Projection names of an architecture: two of the attention, one of the MLP."""

    attention: tuple[str, str]
    mlp: str


NAMES = {
    "phi3": Names(("qkv_proj", "o_proj"), "gate_up_proj"),
    "gpt2": Names(("c_attn", "attn.c_proj"), "c_fc"),
}
LLAMA_LIKE = Names(("q_proj", "v_proj"), "down_proj")

# Adapters of different rank, targets and scaling rules; None is the base.
ADAPTERS: dict[str, Callable[[Names], dict]] = {
    "attention": lambda n: {"r": 4, "lora_alpha": 6, "target_modules": list(n.attention)},
    "all": lambda n: {"r": 8, "lora_alpha": 4, "use_rslora": True, "target_modules": "all-linear"},
    "patterns": lambda n: {
        "r": 3,
        "lora_alpha": 5,
        "target_modules": [*n.attention, n.mlp],
        "rank_pattern": {n.attention[0]: 7},
        "alpha_pattern": {n.mlp: 9},
    },
    "regex": lambda n: {"r": 16, "target_modules": rf".*\.[12]\..*{n.mlp}"},
    "layers": lambda n: {
        "r": 2,
        "target_modules": [n.mlp],
        "layers_to_transform": [0, 2],
        "exclude_modules": rf".*\.2\..*{n.mlp}",
    },
}

MODES: dict[str, dict[str, Any]] = {
    "plain": {"prefix_caching": False, "max_batch_tokens": 4096},
    "chunked": {"prefix_caching": False, "max_batch_tokens": 24},
    "prefix": {"prefix_caching": True, "max_batch_tokens": 4096},
    "preempted": {"prefix_caching": True, "max_batch_tokens": 64},
}


@dataclass
class Case:
    """One architecture's base, adapters and expected outputs."""

    bases: dict[str, BaseModel]
    adapters: dict[str, Path]
    prompts: dict[str, tuple[int, ...]]
    expected: dict[tuple[str, str], Expected]


@pytest.fixture(
    scope="module", params=slow_but(["llama", "qwen2", "gemma3", "gpt2"], ARCHITECTURES)
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name = request.param
    root = tmp_path_factory.mktemp(name)
    base_dir = save_base(root / "base", name)
    names = NAMES.get(name, LLAMA_LIKE)
    conv1d: dict[str, Any] = {"fan_in_fan_out": True} if name == "gpt2" else {}
    adapters = {
        key: save_adapter(base_dir, root / key, seed=i, **make(names), **conv1d)
        for i, (key, make) in enumerate(ADAPTERS.items())
    }
    reference = PeftReference(base_dir, adapters)
    bases = {k: BaseModel.load(base_dir, dtype="float32", **how) for k, how in PATHS.items()}
    assert program_of(bases["cpp"]) is not None
    base = bases["cpp"]
    prompts = {p: tuple(base.tokenizer(p)["input_ids"]) for p in PROMPTS}
    expected = {
        (a, p): reference.greedy(a, prompts[p], TOKENS) for a in ("", *adapters) for p in PROMPTS
    }
    return Case(bases, adapters, prompts, expected)


@pytest.mark.parametrize("kernels", PATHS)
@pytest.mark.parametrize("mode", MODES)
def test_mixed_batch_equals_peft_alone(case: Case, mode: str, kernels: str) -> None:
    config = EngineConfig(
        dtype="float32",
        max_running=24,
        kv_block_size=16,
        kv_cache_bytes=_kv_bytes(case, mode),
        **MODES[mode],
    )
    with Engine(case.bases[kernels], config) as engine:
        for key, path in case.adapters.items():
            engine.load_adapter(path, key)
        if mode == "prefix":
            _generate_all(engine, case)  # fills the cache
        recorder = LogitsRecorder(engine)
        handles = _generate_all(engine, case)
        for (adapter, prompt), expected in case.expected.items():
            choice = handles[adapter, prompt].choices[0]
            assert list(choice.token_ids) == expected.tokens, (adapter, prompt)
            error = relative_error(recorder.of(f"{adapter}/{prompt}"), expected.logits)
            assert error < TOLERANCE, (adapter, prompt)
        _check_mode(engine, handles, mode)


def test_adapters_differ_from_the_base_and_each_other(case: Case) -> None:
    """Guards the parity test itself: with equal outputs everywhere it would show nothing."""
    outputs = {tuple(case.expected[a, PROMPTS[2]].logits[0].tolist()) for a in ("", *case.adapters)}
    assert len(outputs) == 1 + len(case.adapters)


def _kv_bytes(case: Case, mode: str) -> int:
    base = case.bases["cpp"]
    per_token = KVCache.bytes_per_token(base.kv_shapes, base.dtype)
    # Preemption: room for about four of the 24 sequences.
    return per_token * (8 * 50 if mode == "preempted" else 8 * 1000)


def _generate_all(engine: Engine, case: Case) -> dict:
    sampling = SamplingParams(max_new_tokens=TOKENS, ignore_eos=True)
    handles = {
        (a, p): engine.submit(
            Request(
                token_ids=case.prompts[p], adapter_id=a, sampling=sampling, request_id=f"{a}/{p}"
            )
        )
        for a, p in case.expected
    }
    return {key: handle.result() for key, handle in handles.items()}


def _check_mode(engine: Engine, results: dict, mode: str) -> None:
    """The mode must have happened, or the test shows less than it claims."""
    cached = sum(r.choices[0].usage.cached_tokens for r in results.values())
    stats = engine.stats()
    assert (stats.preemptions > 0) == (mode == "preempted")
    if mode in ("plain", "chunked"):
        assert cached == 0
    if mode == "prefix":
        assert cached > 0
    assert (stats.running, stats.waiting, stats.leases, stats.kv_blocks_used) == (0, 0, 0, 0)
