"""Activated LoRA that overflows: what it shares with the base stays the base's, for all who find it
in the cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lora_runtime import (
    BaseModel,
    Engine,
    EngineConfig,
    EngineFailedError,
    Request,
    SamplingParams,
    WeightedAdapter,
)

from ...support.adapters import edit_config, edit_tensors, save_adapter
from ...support.device import DEVICE, PATHS

SAMPLING = SamplingParams(max_new_tokens=3, ignore_eos=True, logprobs=2)
CALL = {"broken": (7, 9), "good": (5,)}
PREFIX = tuple(range(100, 140))
WAYS = {
    **PATHS,
    "triton": {"device": DEVICE, "kernels": "triton"},
}


@pytest.fixture(scope="module")
def adapters(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("poison")
    made = {
        name: save_adapter(
            tiny_base,
            root / name,
            seed=i,
            target_modules=["q_proj", "k_proj", "v_proj"],
            alora_invocation_tokens=list(call),
        )
        for i, (name, call) in enumerate(CALL.items())
    }
    edit_config(made["broken"], lora_alpha=9e29)
    edit_tensors(
        made["broken"], lambda t: {n: v * (1e20 if ".lora_B." in n else 1) for n, v in t.items()}
    )
    return made


def _requests() -> dict[str, Request]:
    def request(tokens: tuple[int, ...], **fields: object) -> Request:
        return Request(token_ids=tokens, sampling=SAMPLING, **fields)  # type: ignore[arg-type]

    return {
        "base": request((*PREFIX, 1, 2)),
        "base, longer": request((*PREFIX, 7, 9, 50)),
        "good": request((*PREFIX, 5, 8), adapter_id="good"),
        "other prefix": request(tuple(range(60, 90))),
    }


HOSTILE = [
    {"token_ids": (*PREFIX, 7, 9, 50), "adapter_id": "broken"},
    {
        "token_ids": (*PREFIX, 7, 9, 5, 50),
        "adapters": (WeightedAdapter("good", 0.5), WeightedAdapter("broken", -2.0)),
    },
    {
        "token_ids": (*PREFIX[:33], 7, 9, *range(200, 230)),
        "adapter_id": "broken",
    },
]


@pytest.mark.parametrize("max_batch_tokens", [128, 24])
@pytest.mark.parametrize(
    "way", [pytest.param(w, marks=[pytest.mark.slow] * (w == "triton")) for w in WAYS]
)
def test_what_an_adapter_breaks_is_its_own(
    tiny_base: Path, adapters: dict[str, Path], way: str, max_batch_tokens: int
) -> None:
    base = BaseModel.load(tiny_base, dtype="float32", **WAYS[way])
    config = EngineConfig(
        dtype="float32", kv_cache_bytes=8 << 20, max_running=4, max_batch_tokens=max_batch_tokens
    )

    def run(engine: Engine, name: str) -> tuple[torch.Tensor, tuple[int, ...], int]:
        choice = engine.generate(_requests()[name]).choices[0]
        values = torch.tensor([p.logprob for p in choice.logprobs])
        return values, choice.token_ids, choice.usage.cached_tokens

    expected = {}
    for name in _requests():
        with Engine(base, config) as engine:
            engine.load_adapter(adapters["good"], "good")
            expected[name] = run(engine, name)
            assert expected[name][2] == 0
    with Engine(base, config) as engine:
        for name, path in adapters.items():
            engine.load_adapter(path, name)
        for fields in HOSTILE:
            beside = engine.submit(_requests()["other prefix"])
            handle = engine.submit(Request(sampling=SAMPLING, **fields))  # type: ignore[arg-type]
            with pytest.raises(EngineFailedError, match="NaN"):
                handle.result()
            assert beside.result().choices[0].token_ids == expected["other prefix"][1]
        for name in _requests():
            logprobs, tokens, cached = run(engine, name)
            assert tokens == expected[name][1], name
            torch.testing.assert_close(logprobs, expected[name][0], rtol=1e-4, atol=1e-4)
            assert cached >= 16, name  # of the hostile requests' prefixes, too
