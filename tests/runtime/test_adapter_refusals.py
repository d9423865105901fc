"""The loader fails closed: what it cannot apply is refused by name, and leaves nothing behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import IA3Config

from lora_runtime import AdapterError, BaseMismatchError, Engine, Request, UnknownAdapterError

from ..support.adapters import edit_config, edit_tensors, save_adapter
from ..support.models import save_base

Q = "base_model.model.model.layers.0.self_attn.q_proj"


def assert_refused(engine: Engine, path: Path, names: str, kind: type[AdapterError] = AdapterError) -> None:
    with pytest.raises(kind, match=names) as caught:
        engine.load_adapter(path, "bad")
    assert isinstance(caught.value, BaseMismatchError) == (kind is BaseMismatchError)
    assert engine.stats().adapters == engine.stats().adapter_bytes == 0
    with pytest.raises(UnknownAdapterError):
        engine.generate(Request(prompt="hi", adapter_id="bad"))


@pytest.fixture
def good(tiny_adapters: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a good adapter, to be damaged."""
    return shutil.copytree(tiny_adapters["a3"], tmp_path / "adapter")


@pytest.mark.parametrize("fields", [
    {"use_dora": True}, {"bias": "all"}, {"bias": "lora_only"}, {"modules_to_save": ["lm_head"]}, {"lora_bias": True},
    {"trainable_token_indices": [1]}, {"alora_invocation_tokens": [1]}, {"target_parameters": ["x"]},
    {"layer_replication": [[0, 2]]}, {"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"},
    {"new_mathematics": 1}, {"peft_type": "ADALORA"}, {"peft_type": None}, {"r": 0}, {"r": "8"}, {"lora_alpha": None,
    "r": -1}, {"target_modules": None}, {"target_modules": "(("}, {"rank_pattern": {"q_proj": 0}},
    {"rank_pattern": 3}, {"layers_to_transform": "x"}, {"lora_alpha": "x"},
], ids=str)
def test_config_fields(make_engine: Callable[..., Engine], good: Path, fields: dict) -> None:
    edit_config(good, **fields)
    assert_refused(make_engine(), good, list(fields)[-1])


def test_other_peft_methods(make_engine: Callable[..., Engine], tiny_base: Path, tmp_path: Path) -> None:
    config = IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM")
    assert_refused(make_engine(), save_adapter(tiny_base, tmp_path / "ia3", config=config), "IA3")


@pytest.mark.parametrize(("change", "names", "kind"), [
    (lambda t: t | {"base_model.model.lm_head.weight": torch.zeros(2)}, "lm_head", AdapterError),
    (lambda t: t | {f"{Q}.lora_magnitude_vector.weight": torch.zeros(2)}, "magnitude", AdapterError),
    (lambda t: {k: v for k, v in t.items() if k != f"{Q}.lora_B.weight"}, "layers.0.self_attn.q_proj", AdapterError),
    (lambda t: {k: v for k, v in t.items() if Q not in k}, "layers.0.self_attn.q_proj", AdapterError),
    (lambda t: t | {f"{Q}.lora_A.weight": torch.full_like(t[f"{Q}.lora_A.weight"], float("nan"))}, "NaN", AdapterError),
    (lambda t: t | {f"{Q}.lora_A.weight": t[f"{Q}.lora_A.weight"].to(torch.int32)}, "int32", AdapterError),
    (lambda t: t | {f"{Q}.lora_A.weight": t[f"{Q}.lora_A.weight"][:-1].contiguous()}, "rank", AdapterError),
    (lambda t: t | {f"{Q}.lora_A.weight": t[f"{Q}.lora_A.weight"][:, :-1].contiguous()}, "q_proj", BaseMismatchError),
    (lambda t: t | {f"{Q}.lora_A.weight": t[f"{Q}.lora_A.weight"][0]}, "q_proj", AdapterError),
    (lambda t: t | {k.replace("q_proj", "k_proj"): v[:32].clone() if ".lora_B" in k else v.clone()
                    for k, v in t.items() if "q_proj" in k}, "k_proj", AdapterError),
    (lambda t: {k.replace("self_attn", "attention"): v for k, v in t.items()}, "attention", BaseMismatchError),
    (lambda t: {}, "no tensors", AdapterError),
], ids=range(12))
def test_tensors(make_engine: Callable[..., Engine], good: Path, change: Callable, names: str, kind: type) -> None:
    edit_tensors(good, change)
    assert_refused(make_engine(), good, names, kind)


def test_a_target_that_the_base_lacks(make_engine: Callable[..., Engine], good: Path) -> None:
    edit_config(good, target_modules=["q_proj", "v_proj", "up_proj", "missing_proj"])
    assert_refused(make_engine(), good, "missing_proj", BaseMismatchError)


def test_an_adapter_of_another_base(make_engine: Callable[..., Engine], tmp_path: Path) -> None:
    other = save_adapter(save_base(tmp_path / "phi3", "phi3"), tmp_path / "adapter", target_modules=["qkv_proj"])
    assert_refused(make_engine(), other, "qkv_proj", BaseMismatchError)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_lora_outside_the_layers(
    make_engine: Callable[..., Engine], tiny_base: Path, tmp_path: Path, target: str
) -> None:
    adapter = save_adapter(tiny_base, tmp_path / "adapter", target_modules=["q_proj", target])
    assert_refused(make_engine(), adapter, target)


def test_damaged_files(make_engine: Callable[..., Engine], good: Path) -> None:
    engine, weights, config = make_engine(), good / "adapter_model.safetensors", good / "adapter_config.json"
    data = weights.read_bytes()
    for damaged in (data[: len(data) // 2], data[:4], b"", b"\xff" * 64, (1 << 62).to_bytes(8, "little") + data[8:]):
        weights.write_bytes(damaged)
        assert_refused(engine, good, "adapter_model.safetensors is corrupt")
    weights.unlink()
    (good / "adapter_model.bin").write_bytes(b"a pickle")
    assert_refused(engine, good, "adapter_model.safetensors is missing")
    for text in ("{", "[]", "[" * 100_000):
        config.write_text(text)
        assert_refused(engine, good, "adapter_config.json")
    config.write_bytes(b" " * (2 << 20))
    assert_refused(engine, good, "larger than the limit")
    config.unlink()
    assert_refused(engine, good, "adapter_config.json cannot be read")
    shutil.rmtree(good)
    assert_refused(engine, good, "not a directory")


def test_a_file_over_the_limit(make_engine: Callable[..., Engine], good: Path) -> None:
    assert_refused(make_engine(max_adapter_bytes=1000), good, "larger than the limit of 1000 bytes")


@pytest.mark.parametrize("name", ["", "x" * 257, "line\nbreak"])
def test_bad_adapter_ids(make_engine: Callable[..., Engine], good: Path, name: str) -> None:
    engine = make_engine()
    with pytest.raises(AdapterError, match="adapter id"):
        engine.load_adapter(good, name)
    assert engine.list_adapters() == []


def test_harmless_fields_are_accepted(make_engine: Callable[..., Engine], good: Path) -> None:
    edit_config(good, lora_dropout=0.5, revision="main", peft_version="9", use_dora=False, modules_to_save=None)
    assert make_engine().load_adapter(good, "good").adapter_id == "good"
