"""What is accepted and has no effect is told: names that match nothing, unknown fields, zeros."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_runtime import AdapterError
from lora_runtime.adapters.peft.inspect import DescribedBase, describe_base, inspect_adapter
from lora_runtime.adapters.peft.loader import read_adapter
from lora_runtime.adapters.peft.update import CheckedAdapter

from ....support.adapters import edit_config, edit_tensors, save_adapter

Change = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> DescribedBase:
    return describe_base(tiny_base)


@pytest.fixture
def good(tiny_adapters: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of an adapter of rank 4 on q_proj, v_proj and up_proj, to be changed."""
    return shutil.copytree(tiny_adapters["a3"], tmp_path / "adapter")


def read(directory: Path, base: DescribedBase, **options: Any) -> CheckedAdapter:
    return read_adapter(directory, base, max_bytes=1 << 30, max_added_tokens=8, **options)


TARGETS = ["q_proj", "v_proj", "up_proj"]


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"target_modules": [*TARGETS, "w1", "c_attn"]}, "target_modules: .* for 'c_attn', 'w1'"),
        ({"modules_to_save": ["classifier", "score"]}, "modules_to_save: .* 'classifier', 'score'"),
        ({"layers_to_transform": [0, 1, 2, 99]}, "layers_to_transform: .* in 99"),
        ({"exclude_modules": ["vision_tower"]}, "exclude_modules: no module is excluded"),
        ({"rank_pattern": {"k_proj": 2}}, "rank_pattern: .* for 'k_proj'"),
        ({"alpha_pattern": {"^q_proj": 9, "q_proj": 8}}, r"alpha_pattern: .* for '\^q_proj'$"),
        ({"task_type": "SEQ_2_SEQ_LM"}, "task_type = 'SEQ_2_SEQ_LM'"),
    ],
    ids=str,
)
def test_names_that_match_nothing(
    base: DescribedBase, good: Path, fields: dict[str, Any], note: str
) -> None:
    before = read(good, base)
    edit_config(good, **fields)
    after = read(good, base)
    (told,) = [n for n in after.notes if n not in before.notes]
    assert re.search(note, told)
    assert after.modules == before.modules
    for module, update in before.updates.items():
        assert torch.equal(after.updates[module].a, update.a)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"git_sha": "0" * 40}},
        {"lorap_emb_lr": 1e-6, "lorap_lr_ratio": 16.0, "lora_dtype": "bf16", "swift_type": "LORA"},
        {"unsloth_fixed": True, "unsloth_version": "2026.1.1"},
        {"_name_or_path": "org/base", "transformers_version": "5.0", "torch_dtype": "bfloat16"},
        {"auto_map": {"AutoModel": "x.Y"}, "library_name": "peft", "tags": ["lora", "trl"]},
        {"base_model_class": "LlamaForCausalLM", "parent_library": "transformers", "task": "chat"},
        {"training_args": {"learning_rate": 1e-4}, "seed": 3, "num_train_epochs": 3},
        {"enable_lora": None, "merge_weights": True, "load_in_4bit": True},
        {"invocation_string": "ab", "alora_invocation_tokens": [1]},
        {"mathematics_of_tomorrow": None, "another": [], "third": False},
    ],
    ids=str,
)
def test_fields_of_other_tools(base: DescribedBase, good: Path, fields: dict[str, Any]) -> None:
    modules = read(good, base).modules
    edit_config(good, **fields)
    assert read(good, base).modules == modules


def test_unknown_fields(base: DescribedBase, good: Path, tiny_base: Path) -> None:
    modules = read(good, base).modules
    edit_config(good, mathematics_of_tomorrow={"a": 1}, another=[2])
    words = (
        "'mathematics_of_tomorrow' = {'a': 1} is not supported: .*'another'.*allow_unknown_fields"
    )
    with pytest.raises(AdapterError, match=words):
        read(good, base)
    note = "unknown fields passed over (allow_unknown_fields): 'mathematics_of_tomorrow', 'another'"
    checked = read(good, base, allow_unknown_fields=True)
    assert checked.modules == modules
    assert note in checked.notes
    for against in (tiny_base, None):
        assert note in inspect_adapter(good, against, allow_unknown_fields=True).notes
        with pytest.raises(AdapterError, match="allow_unknown_fields"):
            inspect_adapter(good, against)


@pytest.mark.parametrize("fields", [{"lora_nums": 2}, {"use_qalora": True}, {"r": "x"}], ids=str)
def test_what_is_known_is_never_passed_over(
    base: DescribedBase, good: Path, fields: dict[str, Any]
) -> None:
    edit_config(good, **fields)
    with pytest.raises(AdapterError, match=next(iter(fields))):
        read(good, base, allow_unknown_fields=True)


def test_many_unknown_fields_make_a_short_note(base: DescribedBase, good: Path) -> None:
    edit_config(good, **{f"{i}{'x' * 1000}": 1 for i in range(900)})
    for note in read(good, base, allow_unknown_fields=True).notes:
        assert len(note) < 2000
    with pytest.raises(AdapterError) as caught:
        read(good, base)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"fine_tune_type": "lora", "num_layers": 16, "lora_parameters": {"rank": 8}}, "of MLX"),
        ({"lora_layers": -1, "lora_parameters": {"rank": 8, "scale": 10.0}}, "of MLX"),
        ({"config": {"architecture": "lora"}, "model_class": "X"}, "of the adapters library"),
        ({"r": 8, "target_modules": ["q_proj"]}, "names no peft_type"),
    ],
    ids=str,
)
def test_adapters_of_other_tools(
    base: DescribedBase, good: Path, config: dict[str, Any], words: str
) -> None:
    (good / "adapter_config.json").unlink()
    (good / "adapter_config.json").write_text("{}")
    edit_config(good, **config)
    with pytest.raises(AdapterError, match=f"{words}.*LORA"):
        read(good, base, allow_unknown_fields=True)


def zero(*parts: str) -> Change:
    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {
            k: torch.zeros_like(v) if any(p in k for p in parts) else v for k, v in tensors.items()
        }

    return change


NOTHING = "the adapter changes nothing, its output is the base's: "


@pytest.mark.parametrize(
    ("lora", "fields", "zeros", "warnings"),
    [
        ({}, {"lora_alpha": 0}, (), (f"{NOTHING}lora_alpha is 0",)),
        (
            {},
            {"lora_alpha": 0, "rank_pattern": {"q_proj": 4}},
            (),
            (f"{NOTHING}lora_alpha is 0",),
        ),
        (
            {},
            {"lora_alpha": 0, "alpha_pattern": {"q_proj": 4}},
            (),
            ("3 of 6 modules: lora_alpha",),
        ),
        ({}, {}, ("lora_B",), (f"{NOTHING}B is 0",)),
        ({}, {}, ("lora_A",), (f"{NOTHING}A is 0",)),
        ({}, {}, ("v_proj.lora_A", "q_proj.lora_B"), (f"{NOTHING}B is 0, A is 0",)),
        ({}, {}, ("layers.0.self_attn.q_proj.lora_B",), ("1 of 6 modules: B is 0",)),
        ({}, {}, (), ()),
        ({"use_dora": True}, {}, ("lora_B",), ("6 of 6 modules: B is 0",)),
        ({"lora_bias": True}, {}, ("lora_B.weight",), ()),
        ({"lora_bias": True}, {}, ("lora_B",), (f"{NOTHING}B is 0",)),
        ({"modules_to_save": ["norm"]}, {}, ("lora_B",), ("6 of 6 modules: B is 0",)),
        ({"trainable_token_indices": [1]}, {}, ("lora_B",), ("6 of 6 modules: B is 0",)),
    ],
    ids=str,
)
def test_what_changes_nothing(
    base: DescribedBase,
    tiny_base: Path,
    tmp_path: Path,
    lora: dict[str, Any],
    fields: dict[str, Any],
    zeros: tuple[str, ...],
    warnings: tuple[str, ...],
) -> None:
    directory = save_adapter(tiny_base, tmp_path / "adapter", **lora)
    edit_config(directory, **fields)
    edit_tensors(directory, zero(*zeros))
    checked = read(directory, base)
    assert len(checked.warnings) == len(warnings)
    assert all(map(str.startswith, checked.warnings, warnings))
    assert set(checked.warnings) <= set(checked.notes)
    assert set(checked.warnings) <= set(inspect_adapter(directory).notes)
