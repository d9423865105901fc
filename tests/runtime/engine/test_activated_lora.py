"""Activated LoRA (arXiv:2504.12397): the adapter works from its invocation tokens on; before them
KV is the base's."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_runtime import (
    BaseModel,
    Engine,
    EngineConfig,
    InvalidRequestError,
    Request,
    SamplingParams,
)

from ...support.adapters import save_adapter
from ...support.device import PATHS
from ...support.reference import LogitsRecorder, PeftReference, relative_error

TOKENS = 6
SAMPLING = SamplingParams(max_new_tokens=TOKENS, ignore_eos=True)
CALL = {"one": [7, 9], "two": [5]}
PREFIX = tuple(range(100, 140))
PROMPTS = {
    "one": [(*PREFIX, 7, 9, 50, 51), (*PREFIX, 7, 9, 60, *PREFIX, 7, 9), (7, 9)],
    "two": [(*PREFIX, 5, 8), (5, *PREFIX, 5)],
}


@pytest.fixture(scope="module")
def adapters(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("alora")
    targets = ["q_proj", "k_proj", "v_proj"]
    return {
        name: save_adapter(
            tiny_base, root / name, seed=i, target_modules=targets, alora_invocation_tokens=call
        )
        for i, (name, call) in enumerate(CALL.items())
    }


@pytest.mark.parametrize("kernels", PATHS)
@pytest.mark.parametrize("max_batch_tokens", [128, 16])
def test_equals_peft_beside_base_rows(
    tiny_base: Path, adapters: dict[str, Path], kernels: str, max_batch_tokens: int
) -> None:
    reference = PeftReference(tiny_base, adapters)
    base = BaseModel.load(tiny_base, dtype="float32", **PATHS[kernels])
    config = EngineConfig(
        dtype="float32",
        kv_cache_bytes=8 << 20,
        max_running=8,
        max_batch_tokens=max_batch_tokens,
        prefix_caching=False,
    )
    with Engine(base, config) as engine:
        for name, path in adapters.items():
            engine.load_adapter(path, name)
        recorder = LogitsRecorder(engine)
        cases = [(name, p) for name, prompts in PROMPTS.items() for p in prompts] + [
            ("", PROMPTS["one"][0])
        ]
        handles = [
            engine.submit(
                Request(token_ids=p, adapter_id=name, sampling=SAMPLING, request_id=str(i))
            )
            for i, (name, p) in enumerate(cases)
        ]
        for i, ((name, prompt), handle) in enumerate(zip(cases, handles, strict=True)):
            expected = reference.greedy(name, prompt, TOKENS)
            assert list(handle.result().choices[0].token_ids) == expected.tokens, (name, prompt)
            assert relative_error(recorder.of(str(i)), expected.logits) < 1e-4, (name, prompt)


def test_the_prefix_is_shared_with_the_base_and_other_adapters(
    tiny_base: Path, adapters: dict[str, Path]
) -> None:
    config = EngineConfig(
        dtype="float32", kv_cache_bytes=8 << 20, max_running=8, max_batch_tokens=128
    )

    def run(
        engine: Engine, adapter_id: str, prompt: tuple[int, ...]
    ) -> tuple[int, tuple[int, ...]]:
        choice = engine.generate(
            Request(token_ids=prompt, adapter_id=adapter_id, sampling=SAMPLING)
        ).choices[0]
        return choice.usage.cached_tokens, choice.token_ids

    with Engine(tiny_base, config) as engine:
        for name, path in adapters.items():
            engine.load_adapter(path, name)
        fresh: dict[str, tuple[int, ...]] = {}
        for name, prompts in PROMPTS.items():
            # Two whole blocks of 16 lie before the invocation.
            assert run(engine, "", (*PREFIX, 1))[0] == (0 if not fresh else 32)
            cached, fresh[name] = run(engine, name, prompts[0])
            assert cached == 32
        # What an adapter computed after its invocation is its own, and starts where it was invoked.
        assert run(engine, "", (*PROMPTS["one"][0], *fresh["one"]))[0] == 32
        assert run(engine, "one", (*PROMPTS["one"][0], *fresh["one"]))[0] == 48
        # Invoked once more at the end: what the base has computed before that is used, the
        # adapter's own is not.
        assert run(engine, "one", (*PROMPTS["one"][0], *fresh["one"], 7, 9))[0] == 48
        engine.unload_adapter("one")
        assert run(engine, "two", PROMPTS["two"][0]) == (32, fresh["two"])


def test_a_prompt_that_does_not_invoke_it_is_refused(
    tiny_base: Path, adapters: dict[str, Path]
) -> None:
    with Engine(tiny_base, EngineConfig(dtype="float32", kv_cache_bytes=8 << 20)) as engine:
        engine.load_adapter(adapters["one"], "one")
        for prompt in ((1, 2, 3), (9, 7), (7,)):
            with pytest.raises(InvalidRequestError, match="invocation tokens"):
                engine.submit(Request(token_ids=prompt, adapter_id="one"))
        assert engine.stats().leases == 0
