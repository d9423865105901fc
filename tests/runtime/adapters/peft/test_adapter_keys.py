"""Names of tensors as PEFT's versions and the tools around it write them: all lead to the same
updates."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_runtime import AdapterError
from lora_runtime.adapters.peft.inspect import DescribedBase, describe_base
from lora_runtime.adapters.peft.loader import read_adapter
from lora_runtime.adapters.peft.update import CheckedAdapter, ModuleUpdate

from ....support.adapters import edit_config, edit_tensors, save_adapter

PREFIX = "base_model.model."
PARTS = ("a", "b", "lora_bias", "magnitude", "weight", "bias", "token_rows")


@pytest.fixture(scope="session")
def base(tiny_base: Path) -> DescribedBase:
    return describe_base(tiny_base)


@pytest.fixture(scope="session")
def rich(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DoRA on layers, embeddings trained in rows, a saved lm_head and saved norms."""
    return save_adapter(
        tiny_base,
        tmp_path_factory.mktemp("rich") / "adapter",
        use_dora=True,
        trainable_token_indices=[1, 7],
        modules_to_save=["lm_head", "norm"],
        target_modules=r".*layers\.[01]\.(self_attn\.q_proj|mlp\.up_proj)",
        rank_pattern={r"model\.layers\.0\..*": 2},
    )


def read(directory: Path, base: DescribedBase) -> Any:
    """A CheckedAdapter, whose updates have the tensors that a test asks for."""
    return read_adapter(directory, base, max_bytes=1 << 30, max_added_tokens=0)


def assert_equal(one: CheckedAdapter, other: CheckedAdapter) -> None:
    assert one.modules == other.modules
    for name, update in one.updates.items():
        for part in PARTS:
            mine, its = getattr(update, part), getattr(other.updates[name], part)
            assert (mine is None) == (its is None), (name, part)
            assert mine is None or torch.equal(mine, its), (name, part)


def rename(directory: Path, change: Callable[[str], str]) -> None:
    edit_tensors(
        directory, lambda tensors: {change(key): tensor for key, tensor in tensors.items()}
    )


def named(adapter: str) -> Callable[[str], str]:
    """As in the state dict of the model, with the adapter's name."""

    def change(key: str) -> str:
        for part in ("lora_A", "lora_B"):
            key = key.replace(f"{part}.weight", f"{part}.{adapter}.weight")
        for part in ("lora_magnitude_vector", "trainable_tokens_delta"):
            key = key.replace(part, f"{part}.{adapter}")
        for module in ("lm_head", "norm"):
            key = key.replace(f"{module}.weight", f"{module}.modules_to_save.{adapter}.weight")
        return key

    return change


def inside(piece: str) -> Callable[[str], str]:
    """A wrapper's piece around the model, around every layer, and around the projections."""

    def change(key: str) -> str:
        rest = key.removeprefix(PREFIX)
        for path in ("layers.0", "layers.1", "q_proj", "lm_head"):
            rest = rest.replace(path, f"{path}.{piece}")
        return f"{piece}.{PREFIX}{piece}.{rest}"

    return change


@pytest.mark.parametrize(
    "change",
    [
        named("default"),
        named("my-adapter"),
        named("module"),
        named("weight"),
        lambda key: key.replace("magnitude_vector", "magnitude_vector.weight"),
        lambda key: key.replace("magnitude_vector", "magnitude_vector.default.weight"),
        lambda key: key.removeprefix(PREFIX),
        lambda key: "module." + key,
        lambda key: key.removeprefix("base_model."),
        inside("_orig_mod"),
        inside("_checkpoint_wrapped_module"),
        inside("_fsdp_wrapped_module"),
        inside("module"),
        lambda key: inside("_checkpoint_wrapped_module._fsdp_wrapped_module")(
            named("default")(key)
        ),
    ],
    ids=range(14),
)
def test_names(
    base: DescribedBase, rich: Path, tmp_path: Path, change: Callable[[str], str]
) -> None:
    expected = read(rich, base)
    copy = shutil.copytree(rich, tmp_path / "copy")
    rename(copy, change)
    actual = read(copy, base)
    assert_equal(actual, expected)
    assert actual.version != expected.version


@pytest.mark.parametrize("form", ["model.language_model.{}", "language_model.model.{}"])
def test_wrappers_for_other_modalities(
    base: DescribedBase, rich: Path, tmp_path: Path, form: str
) -> None:
    """The config's rules are about the wrapper's names, and are mapped with them."""
    wrapped = shutil.copytree(rich, tmp_path / "copy")
    layers = form.format("layers").replace(".", r"\.")
    rename(wrapped, lambda key: key.replace(f"{PREFIX}model.", PREFIX + form.format("")))
    if form.startswith("language_model"):
        rename(wrapped, lambda key: key.replace("lm_head", "language_model.lm_head"))
    edit_config(
        wrapped,
        target_modules=rf"{layers}\.[01]\.(self_attn\.q_proj|mlp\.up_proj)",
        rank_pattern={rf"{layers}\.0\..*": 2},
        modules_to_save=["lm_head", "norm"],
    )
    assert_equal(read(wrapped, base), read(rich, base))
    edit_config(wrapped, target_modules=r"model\.layers\.[01]\.(self_attn\.q_proj|mlp\.up_proj)")
    with pytest.raises(AdapterError, match=r"matches no module .* such as '.*language_model"):
        read(wrapped, base)


@pytest.mark.parametrize(
    "path",
    [
        "model.vision_tower.layers.0.q_proj",
        "vision_model.encoder.q_proj",
        "visual.blocks.0.attn.qkv",
        "model.multi_modal_projector.linear_1",
        "mm_projector.0",
        "audio_tower.layers.0.fc1",
    ],
)
def test_other_modalities(base: DescribedBase, rich: Path, tmp_path: Path, path: str) -> None:
    copy = shutil.copytree(rich, tmp_path / "copy")
    key = f"{PREFIX}{path}.lora_A.weight"
    edit_tensors(copy, lambda tensors: tensors | {key: torch.ones(2, 2)})
    with pytest.raises(AdapterError, match=f"{key}.*modalities"):
        read(copy, base)


def test_two_names_for_one_place(base: DescribedBase, rich: Path, tmp_path: Path) -> None:
    """Refused, even where the values agree."""
    for i, change in enumerate(
        (named("default"), inside("_orig_mod"), lambda key: key.removeprefix(PREFIX))
    ):

        def twice(
            t: dict[str, torch.Tensor], change: Callable[[str], str] = change
        ) -> dict[str, torch.Tensor]:
            return t | {
                change(k): v.clone() for k, v in t.items() if "q_proj" in k and "lora_A" in k
            }

        copy = shutil.copytree(rich, tmp_path / f"copy{i}")
        edit_tensors(copy, twice)
        with pytest.raises(AdapterError, match="same part of one module"):
            read(copy, base)


def test_modules_saved_twice(base: DescribedBase, rich: Path, tmp_path: Path) -> None:
    """Where embeddings were resized, PEFT writes a saved module three times: once from below, twice
    alike."""
    copy = shutil.copytree(rich, tmp_path / "copy")
    head = f"{PREFIX}lm_head"
    edit_tensors(
        copy,
        lambda t: (
            t
            | {
                f"{head}.modules_to_save.weight": t[f"{head}.weight"].clone(),
                f"{head}.original_module.weight": torch.zeros(258, 64),
            }
        ),
    )
    checked = read(copy, base)
    assert torch.equal(
        checked.updates["lm_head"].weight, read(rich, base).updates["lm_head"].weight
    )
    assert any("original_module" in note for note in checked.notes)
    edit_tensors(copy, lambda t: t | {f"{head}.modules_to_save.weight": torch.zeros(258, 64)})
    with pytest.raises(AdapterError, match="same part of one module"):
        read(copy, base)


def test_saved_modules_of_a_container(tiny_base: Path, base: DescribedBase, tmp_path: Path) -> None:
    """The state dict of the model has the container's wrapper in the middle of the names."""
    directory = save_adapter(tiny_base, tmp_path / "adapter", modules_to_save=["mlp"])
    expected = read(directory, base)
    rename(directory, lambda key: key.replace("mlp.", "mlp.modules_to_save.default."))
    edit_tensors(
        directory,
        lambda t: (
            t
            | {
                k.replace("modules_to_save.default", "original_module"): v.clone()
                for k, v in t.items()
                if "mlp" in k
            }
        ),
    )
    actual = read(directory, base)
    assert set(actual.updates) == set(expected.updates)
    assert all(
        torch.equal(u.weight, expected.updates[m].weight)
        for m, u in actual.updates.items()
        if ".mlp." in m
    )


def test_a_base_whose_names_have_the_pieces(base: DescribedBase, rich: Path) -> None:
    """A base that is itself a wrapper keeps its own names."""
    modules = {
        name.replace("model.", "model.language_model."): m for name, m in base.modules.items()
    }
    wrapper = DescribedBase("wrapper", "x", modules, None, base.vocab_size)
    with pytest.raises(AdapterError, match="none of the base model"):
        read(rich, wrapper)


def test_nothing_is_left_without_an_update(base: DescribedBase, rich: Path) -> None:
    checked = read(rich, base)
    assert {m.name for m in checked.modules} == set(checked.updates)
    assert all(
        any(getattr(u, part) is not None for part in PARTS) for u in checked.updates.values()
    )
    assert ModuleUpdate().rank == 0
