"""torch.compile of norms and activations: the same logits, adapters' norms included, and what is
refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lora_runtime import BaseModel, BaseModelError, Engine, EngineConfig, Request, SamplingParams
from lora_runtime.model import elementwise

from ...support.adapters import save_adapter
from ...support.device import DEVICE
from ...support.models import save_base
from ...support.reference import LogitsRecorder, relative_error

PROMPTS = ("one", "a prompt of more than one block of tokens")


def _logits(
    base: BaseModel, adapters: dict[str, Path]
) -> dict[tuple[str, str], tuple[tuple[int, ...], Any]]:
    with Engine(
        base, EngineConfig(kv_cache_bytes=8 << 20, max_batch_tokens=32, max_running=8)
    ) as engine:
        for name, path in adapters.items():
            engine.load_adapter(path, name)
        recorder = LogitsRecorder(engine)
        sampling = SamplingParams(max_new_tokens=4, ignore_eos=True)
        handles = {
            (name, prompt): engine.submit(
                Request(
                    prompt=prompt, adapter_id=name, sampling=sampling, request_id=f"{name}/{prompt}"
                )
            )
            for name in ("", *adapters)
            for prompt in PROMPTS
        }
        return {
            key: (tuple(handle.result().choices[0].token_ids), recorder.of(f"{key[0]}/{key[1]}"))
            for key, handle in handles.items()
        }


@pytest.mark.slow
def test_compiled_norms_give_the_same(tmp_path: Path) -> None:
    """Gemma 3: norms of layers and of heads, with 1 + weight; and an adapter that saves some of
    both."""
    path = save_base(tmp_path / "base", "gemma3")
    adapters = {
        "lora": save_adapter(path, tmp_path / "lora"),
        "norms": save_adapter(
            path, tmp_path / "norms", seed=1, modules_to_save=["q_norm", "input_layernorm"]
        ),
    }
    plain = BaseModel.load(path, dtype="float32", kernels="torch")
    compiled = BaseModel.load(path, dtype="float32", kernels="torch", compile="elementwise")
    assert compiled.kernel_names["elementwise"] == f"torch.compile/{DEVICE}"
    assert "elementwise" not in plain.kernel_names
    expected, actual = _logits(plain, adapters), _logits(compiled, adapters)
    for key, (tokens, logits) in expected.items():
        assert actual[key][0] == tokens, key
        assert relative_error(actual[key][1], logits) < 1e-5, key
    assert len({logits[0, 0].item() for _, logits in expected.values()}) == len(expected)


def test_what_is_compiled(tmp_path: Path) -> None:
    """GPT-2 has torch's own LayerNorm, one operation, and a GELU of eight."""
    base = BaseModel.load(save_base(tmp_path / "base", "gpt2"), dtype="float32", kernels="torch")
    runs: list[int] = []
    assert elementwise.compile_elementwise(base.model, runs.append) == 3  # one in each layer
    assert runs == [1, 2, 7]


def test_refusals(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BaseModelError, match="needs kernels 'torch'"):
        BaseModel.load(tiny_base, device="cpu", dtype="float32", compile="elementwise")
    with pytest.raises(ValueError, match="compile must be one of off, elementwise"):
        EngineConfig(compile="all")

    def broken(rows: int) -> None:
        raise RuntimeError("no compiler")

    base = BaseModel.load(tiny_base, dtype="float32", kernels="torch")
    with pytest.raises(BaseModelError, match="does not work here: no compiler"):
        elementwise.compile_elementwise(base.model, broken)
    monkeypatch.setattr(elementwise, "is_norm", lambda module: False)
    with pytest.raises(BaseModelError, match="no norms and activations"):
        elementwise.compile_elementwise(base.model, broken)
