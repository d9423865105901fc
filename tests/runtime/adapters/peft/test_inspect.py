"""`inspect`: the loader's report without a server, with a base's config or without any base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from lora_runtime import AdapterError, BaseMismatchError, BaseModelError
from lora_runtime.adapters.peft.inspect import describe_base, inspect_adapter, render_text, to_json
from lora_runtime.base_model import BaseModel

from ....support.adapters import edit_config, edit_tensors, save_adapter
from ....support.models import ARCHITECTURES, save_base

Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="session")
def rich(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(
        tiny_base,
        tmp_path_factory.mktemp("rich") / "adapter",
        use_rslora=True,
        use_dora=True,
        lora_alpha=3,
        trainable_token_indices=[1, 7],
        modules_to_save=["model.norm"],
        lora_dropout=0.1,
        rank_pattern={Q: 2},
    )


def test_a_report(rich: Path, tiny_base: Path) -> None:
    report = inspect_adapter(rich, tiny_base)
    assert report.base_model_name == str(tiny_base)
    assert report.checked_against == tiny_base.name
    found = {m.name: m for m in report.modules}
    assert found[Q].parts == ("rslora", "dora")
    assert (found[Q].rank, found[Q].num_bytes) == (2, 4 * (2 * 64 + 64 * 2 + 64))
    assert found[Q].scaling == pytest.approx(3 / 2**0.5)
    assert found["model.norm"].parts == ("weight",)
    assert (found["model.embed_tokens"].parts, found["model.embed_tokens"].rank) == (("tokens",), 0)
    assert [n for n in report.notes if n.startswith("lora_dropout = 0.1")]


def test_json_and_text(rich: Path, tiny_base: Path) -> None:
    report = inspect_adapter(rich, tiny_base)
    data = json.loads(json.dumps(to_json(report)))
    assert data["total_bytes"] == sum(m["num_bytes"] for m in data["modules"])
    assert data["ranks"] == [2, 4]
    text = render_text(report)
    for module in report.modules:
        (line,) = [line for line in text.splitlines() if line.startswith(module.name + " ")]
        assert line.split()[1] == str(module.rank)
        assert line.endswith(", ".join(module.parts))
    for shown in (report.version, "lora_dropout", str(data["total_bytes"]), tiny_base.name):
        assert shown in text


@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"bias": "all"},
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"], "use_dora": True},
        {"modules_to_save": ["lm_head", "norm", "mlp"]},
        {"trainable_token_indices": {"lm_head": [2], "embed_tokens": [1]}},
        {"added_tokens": 3, "trainable_token_indices": [259]},
        {"added_tokens": 3, "modules_to_save": ["embed_tokens"]},
        {"lora_bias": True, "alora_invocation_tokens": [1, 2]},
    ],
    ids=str,
)
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "qwen2"])
def test_without_a_base(tmp_path: Path, architecture: str, lora: dict) -> None:
    """The same modules, parts and bytes; only what needs the base is missing."""
    base = save_base(tmp_path / "base", architecture)
    adapter = save_adapter(base, tmp_path / "adapter", **lora)
    alone, against = inspect_adapter(adapter), inspect_adapter(adapter, base)
    own = {
        m for m in against.modules if m.num_bytes
    }  # a tied lm_head may have no tensors of its own
    assert own == {m for m in alone.modules if m.num_bytes}
    assert "without a base, targets and shapes were not checked" in alone.notes
    assert alone.checked_against == ""
    assert alone.invocation_tokens == against.invocation_tokens
    assert "not checked against a base" in render_text(alone)


@pytest.mark.parametrize(
    "lora",
    [
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [1]},
    ],
    ids=str,
)
def test_ties_without_a_base(tmp_path: Path, lora: dict) -> None:
    base = save_base(tmp_path / "base", "gemma2")
    adapter = save_adapter(base, tmp_path / "adapter", ensure_weight_tying=True, **lora)
    names, known = ({m.name for m in inspect_adapter(adapter, b).modules} for b in (None, base))
    assert names <= known


def test_what_is_checked_without_a_base(
    rich: Path, tmp_path: Path, tiny_adapters: dict[str, Path]
) -> None:
    for i, (change, names) in enumerate(
        (
            (
                lambda t: (
                    t | {f"base_model.model.{Q}.lora_B.weight": torch.full((64, 2), float("nan"))}
                ),
                "NaN",
            ),
            (lambda t: {k: v for k, v in t.items() if "q_proj.lora_B" not in k}, "lora_B"),
            (lambda t: t | {"base_model.model.odd.weight": torch.ones(2)}, "odd.weight"),
            (lambda t: t | {"base_model.model.odd.lora_A.weight": torch.ones(2, 2)}, "odd"),
        )
    ):
        copy = shutil.copytree(rich, tmp_path / str(i))
        edit_tensors(copy, change)
        with pytest.raises(AdapterError, match=names):
            inspect_adapter(copy)
    edit_config(copy, kasa_config={"a": 1})
    with pytest.raises(AdapterError, match="kasa_config"):
        inspect_adapter(copy)


def test_errors(rich: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseMismatchError):
        inspect_adapter(rich, save_base(tmp_path / "gpt2", "gpt2"))
    with pytest.raises(BaseModelError, match="nowhere' is not a directory"):
        inspect_adapter(rich, tmp_path / "nowhere")
    with pytest.raises(BaseModelError, match="cannot be described"):
        inspect_adapter(rich, rich)
    with pytest.raises(AdapterError, match="larger than the limit"):
        inspect_adapter(rich, max_bytes=100)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_described_base_is_the_served_one(tmp_path: Path, architecture: str) -> None:
    """Versions in the report are those that a server shows."""
    path = save_base(tmp_path / "base", architecture)
    described, served = describe_base(path), BaseModel.load(path, dtype="float32", kernels="torch")
    assert described.identity == served.identity
    assert (described.name, described.vocab_size) == (served.name, served.vocab_size)
    assert described.modules == served.modules
