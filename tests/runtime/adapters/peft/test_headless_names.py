"""Adapters of models that were trained without their head (AutoModel): names and rules are those of
that model, and the head stays the base's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel, AutoModelForCausalLM

from lora_runtime import AdapterError, BaseModel, Engine, EngineConfig, Request, SamplingParams
from lora_runtime.adapters.peft.inspect import DescribedBase, describe_base
from lora_runtime.adapters.peft.loader import read_adapter
from lora_runtime.adapters.peft.update import CheckedAdapter

from ....support.adapters import edit_config, edit_tensors
from ....support.device import PATHS
from ....support.models import save_base

PROMPT = tuple((i * 37 + 11) % 250 for i in range(21))
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "names": ("gemma2", {"target_modules": ["q_proj", "layers.1.mlp.up_proj"]}),
    "regex": ("gemma2", {"target_modules": r"layers\.[01]\.self_attn\.(q|v)_proj"}),
    "everything": ("gemma2", {"target_modules": r".*_(proj|tokens)", "use_dora": True}),
    "all-linear": ("gemma2", {"target_modules": "all-linear"}),
    "patterns": (
        "gemma2",
        {"target_modules": ["q_proj"], "rank_pattern": {"^layers.0.self_attn.q_proj": 2}},
    ),
    "saved": ("gemma2", {"target_modules": ["q_proj"], "modules_to_save": ["norm"]}),
    # With the head, the rows of one that is tied would follow.
    "tokens": (
        "gemma2",
        {"target_modules": ["q_proj"], "trainable_token_indices": list(PROMPT[:3])},
    ),
    "biases": ("gpt2", {"target_modules": ["c_attn"], "bias": "all", "fan_in_fan_out": True}),
}


def train(base: Path, directory: Path, **lora: Any) -> Path:
    model = AutoModel.from_pretrained(base, dtype=torch.float32)
    peft_model = get_peft_model(model, LoraConfig(task_type="FEATURE_EXTRACTION", r=4, **lora))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in peft_model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.15, generator=generator)
    peft_model.save_pretrained(str(directory))
    return directory


@torch.inference_mode()
def expected(base: Path, adapter: Path) -> list[int]:
    """PEFT's own, loaded into the model below the head."""
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation="eager"
    )
    PeftModel.from_pretrained(model.base_model, adapter)
    ids = torch.tensor([PROMPT])
    for _ in range(5):
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    return ids[0, len(PROMPT) :].tolist()


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {name: save_base(root / name, name, layers=2) for name in ("gemma2", "gpt2")}


@pytest.fixture(scope="module")
def trained(
    bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, list[int]]]:
    root = tmp_path_factory.mktemp("adapters")
    found = {}
    for name, (base, lora) in ADAPTERS.items():
        directory = train(bases[base], root / name, **lora)
        found[name] = directory, expected(bases[base], directory)
    return found


@pytest.mark.parametrize("kernels", PATHS)
def test_adapters_without_the_head(
    bases: dict[str, Path], trained: dict[str, tuple[Path, list[int]]], kernels: str
) -> None:
    config = EngineConfig(dtype="float32", kv_cache_bytes=8 << 20)
    sampling = SamplingParams(max_new_tokens=5, ignore_eos=True)
    for base, path in bases.items():
        with Engine(BaseModel.load(path, dtype="float32", **PATHS[kernels]), config) as engine:
            names = [name for name, (of, _) in ADAPTERS.items() if of == base]
            for name in names:
                engine.load_adapter(trained[name][0], name)
            handles = {
                name: engine.submit(Request(token_ids=PROMPT, adapter_id=name, sampling=sampling))
                for name in names
            }
            for name, handle in handles.items():
                assert list(handle.result().choices[0].token_ids) == trained[name][1], name


def read(directory: Path, base: DescribedBase) -> CheckedAdapter:
    return read_adapter(directory, base, max_bytes=1 << 30, max_added_tokens=0)


@pytest.mark.parametrize("form", ["{}", "language_model.{}", "text_model.{}"])
def test_wrappers_without_the_head(
    bases: dict[str, Path], trained: dict[str, tuple[Path, list[int]]], tmp_path: Path, form: str
) -> None:
    base = describe_base(bases["gemma2"])
    right = read(trained["regex"][0], base)
    directory = train(bases["gemma2"], tmp_path / "adapter", target_modules=["q_proj"])
    prefix = "base_model.model."
    rename: Callable[[str], str] = lambda key: prefix + form.format(key.removeprefix(prefix))  # noqa: E731
    edit_tensors(directory, lambda t: {rename(key): tensor for key, tensor in t.items()})
    found = read(directory, base)
    assert set(found.updates) == {name for name in right.updates if "q_proj" in name}
    edit_config(directory, target_modules=form.format("layers").replace(".", r"\.") + r"\..*q_proj")
    assert read(directory, base).modules == found.modules
    edit_config(directory, target_modules=r"model\.layers\..*q_proj")
    with pytest.raises(AdapterError, match="config"):
        read(directory, base)


def test_the_head_is_no_module_of_such_an_adapter(bases: dict[str, Path], tmp_path: Path) -> None:
    directory = train(bases["gemma2"], tmp_path / "adapter", target_modules=["q_proj"])
    head = {
        "base_model.model.lm_head.lora_A.weight": torch.ones(4, 64),
        "base_model.model.lm_head.lora_B.weight": torch.ones(258, 4),
    }
    edit_tensors(directory, lambda t: t | head)
    with pytest.raises(AdapterError, match="lm_head"):
        read(directory, describe_base(bases["gemma2"]))
