"""The loader fails closed: what it cannot apply is refused by name, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config

from lora_runtime import AdapterError, BaseMismatchError, Engine, Request, UnknownAdapterError
from lora_runtime.adapters.peft.inspect import DescribedBase, describe_base
from lora_runtime.adapters.peft.loader import read_adapter

from ....support.adapters import edit_config, edit_tensors, open_files, save_adapter
from ....support.models import save_base

Q = "base_model.model.model.layers.0.self_attn.q_proj"
EMBED, HEAD = "base_model.model.model.embed_tokens", "base_model.model.lm_head"


@pytest.fixture(scope="session")
def base(tiny_base: Path) -> DescribedBase:
    return describe_base(tiny_base)


@pytest.fixture
def good(tiny_adapters: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a good adapter, to be damaged."""
    return shutil.copytree(tiny_adapters["a3"], tmp_path / "adapter")


def assert_refused(
    base: DescribedBase,
    path: Path,
    names: str,
    kind: type[AdapterError] = AdapterError,
    **limits: Any,
) -> None:
    files = open_files()
    with pytest.raises(AdapterError, match=names) as caught:
        read_adapter(path, base, **({"max_bytes": 1 << 30, "max_added_tokens": 8} | limits))
    assert isinstance(caught.value, BaseMismatchError) == (kind is BaseMismatchError), caught.value
    assert open_files() == files


@pytest.mark.parametrize(
    "fields",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"lora_bias": True},
        {"trainable_token_indices": [1]},
        {"trainable_token_indices": {"lm_head": [3]}},
        {"trainable_token_indices": [1, 1]},
        {"trainable_token_indices": []},
        {"trainable_token_indices": {"q_proj": [1]}},
        {"trainable_token_indices": "x"},
        {"target_parameters": ["x"]},
        {"layer_replication": [[0, 2]]},
        {"megatron_config": {"a": 1}},
        {"use_qalora": True},
        {"use_bdlora": {"nblocks": 2}},
        {"arrow_config": {"top_k": 1}},
        {"kasa_config": {"a": 1}},
        {"velora_config": {"a": 1}},
        {"monteclora_config": {"a": 1}},
        {"new_mathematics": 1},
        {"enable_lora": [True, False, True]},
        {"use_merged_linear": True},
        {"lora_nums": 3},
        {"swift_type": "LONGLORA"},
        {"invocation_string": "<|start|>"},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "pissa_niter_4"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "loftq"},
        {"init_lora_weights": "corda"},
        {"init_lora_weights": "lora_ga"},
        {"init_lora_weights": 3},
        {"peft_type": "ADALORA"},
        {"peft_type": None},
        {"task_type": "SEQ_CLS"},
        {"r": 0},
        {"r": "8"},
        {"r": True},
        {"lora_alpha": None, "r": -1},
        {"lora_alpha": None},
        {"r": None},
        {"lora_alpha": "x"},
        {"target_modules": None},
        {"target_modules": "(("},
        {"target_modules": "(a{1000}){1000}"},
        {"target_modules": [1]},
        {"target_modules": {"q_proj": 1}},
        {"rank_pattern": {"q_proj": 0}},
        {"rank_pattern": 3},
        {"rank_pattern": {"((": 2}},
        {"alpha_pattern": {"q_proj": "x"}},
        {"layers_to_transform": "x"},
        {"layers_pattern": "layers"},
        {"target_modules": "all-linear", "layers_to_transform": [0]},
        {"use_rslora": "yes"},
        {"bias": "some"},
        {"bias": 1},
        {"modules_to_save": "lm_head"},
        {"exclude_modules": 3},
        {"base_model_name_or_path": 3},
        {"alora_invocation_tokens": "x"},
        {"alora_invocation_tokens": [258]},
        {"use_dora": True, "lora_bias": True},
        {"alora_invocation_tokens": [1], "use_dora": True},
        {"alora_invocation_tokens": [1], "bias": "all"},
        {"alora_invocation_tokens": [1], "modules_to_save": ["norm"]},
    ],
    ids=str,
)
def test_config_fields(base: DescribedBase, good: Path, fields: dict) -> None:
    edit_config(good, **fields)
    assert_refused(base, good, list(fields)[-1])


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["query_key_value", "missing_proj"]},
        {"target_modules": "auto"},
        {"target_modules": r"model\.encoder\..*"},
        {"exclude_modules": ["q_proj", "v_proj", "up_proj"]},
        {"exclude_modules": ".*"},
        {"layers_to_transform": [98, 99]},
        {"layers_to_transform": 0, "layers_pattern": "h"},
        {"modules_to_save": ["q_proj", "v_proj", "up_proj"]},
    ],
    ids=str,
)
def test_configs_that_choose_no_module(base: DescribedBase, good: Path, fields: dict) -> None:
    """The error names what chooses modules, and how the base names its own."""
    edit_config(good, **{"layers_to_transform": None} | fields)
    words = rf"target_modules.*{list(fields)[-1]}.*'model\.layers\.0\."
    if list(fields) == ["target_modules"]:
        words = r"'target_modules' = .* no module of the base; .* 'model\.layers\.0\."
    assert_refused(base, good, words, BaseMismatchError)


def test_tokens_of_a_module_that_the_base_lacks(base: DescribedBase, good: Path) -> None:
    edit_config(good, trainable_token_indices={"wte": [1]})
    assert_refused(base, good, "wte", BaseMismatchError)


@pytest.mark.parametrize(
    ("fields", "tensor"),
    [
        (
            {"target_modules": ["q_proj", "v_proj", "up_proj", "fc1"]},
            "layers.0.mlp.fc1.lora_A.weight",
        ),
        ({"modules_to_save": ["score"]}, "score.weight"),
    ],
    ids=str,
)
def test_names_that_the_base_lacks_with_tensors(
    base: DescribedBase, good: Path, fields: dict, tensor: str
) -> None:
    """An adapter of another architecture, of which some names are this one's, is not served in part."""
    edit_config(good, **fields)
    edit_tensors(good, lambda t: t | {f"base_model.model.{tensor}": torch.ones(4, 64)})
    assert_refused(base, good, tensor.rpartition(".lora")[0] or "score", BaseMismatchError)


def test_a_hostile_expression_ends(
    base: DescribedBase, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_runtime.adapters.peft.patterns.BUDGET_S", 0.2)
    edit_config(good, target_modules=r"(\w|\.|\w\w|..)*(?<=z)")
    assert_refused(base, good, "'target_modules': its regular expressions take too long")


def test_other_peft_methods(base: DescribedBase, tiny_base: Path, tmp_path: Path) -> None:
    config = IA3Config(
        target_modules=["k_proj", "down_proj"],
        feedforward_modules=["down_proj"],
        task_type="CAUSAL_LM",
    )
    assert_refused(base, save_adapter(tiny_base, tmp_path / "ia3", config=config), "IA3")


A, B = f"{Q}.lora_A.weight", f"{Q}.lora_B.weight"
ROWS = torch.ones(258, 64)


@pytest.mark.parametrize(
    ("change", "names", "kind"),
    [
        (lambda t: t | {f"{HEAD}.weight": torch.zeros(2)}, "lm_head", AdapterError),
        (lambda t: t | {f"{HEAD}.weight": torch.zeros(258, 63)}, "lm_head", BaseMismatchError),
        (lambda t: t | {f"{HEAD}.weight": torch.zeros(257, 64)}, "lm_head", BaseMismatchError),
        (
            lambda t: (
                t
                | {f"{HEAD}.weight": torch.zeros(260, 64), f"{EMBED}.weight": torch.zeros(259, 64)}
            ),
            "259 in .*embed_tokens.*260 in .*lm_head",
            AdapterError,
        ),
        (
            lambda t: t | {f"{x}.weight": torch.zeros(270, 64) for x in (EMBED, HEAD)},
            "adds 12 tokens .*max_added_tokens is 8",
            AdapterError,
        ),
        (
            lambda t: t | {f"{EMBED}.weight": ROWS, f"{EMBED}.base_layer.weight": ROWS.clone()},
            "base layer of 'model.embed_tokens'",
            AdapterError,
        ),
        (
            lambda t: t | {f"{Q}.lora_magnitude_vector.weight": torch.zeros(2)},
            "magnitude",
            AdapterError,
        ),
        (lambda t: t | {f"{Q}.lora_B.bias": torch.zeros(64)}, "lora_B.bias", AdapterError),
        (
            lambda t: t | {f"{Q}.base_layer.weight": torch.zeros(64, 64)},
            "base_layer.weight",
            AdapterError,
        ),
        (lambda t: t | {f"{Q}.bias": torch.zeros(64)}, "q_proj.bias", AdapterError),
        (
            lambda t: t | {"base_model.model.model.norm.weight": torch.zeros(64)},
            "norm.weight",
            AdapterError,
        ),
        (
            lambda t: t | {f"{EMBED}.token_adapter.trainable_tokens_delta": torch.zeros(1, 64)},
            "trainable",
            AdapterError,
        ),
        (
            lambda t: t | {f"{Q}.lora_embedding_A": torch.zeros(4, 64)},
            "lora_embedding_A",
            AdapterError,
        ),
        (lambda t: t | {f"{Q}.lora_C.weight": torch.zeros(4, 64)}, "lora_C", AdapterError),
        (lambda t: t | {f"{Q}.lora_A.default.weight": t[A].clone()}, "same part", AdapterError),
        (
            lambda t: (
                t | {f"{Q}.lora_A.one.weight": t[A].clone(), f"{Q}.lora_B.two.weight": t[B].clone()}
            ),
            "'one', 'two'",
            AdapterError,
        ),
        (
            lambda t: t | {A.removeprefix("base_model.model."): t[A].clone()},
            "same part",
            AdapterError,
        ),
        (
            lambda t: {k: v for k, v in t.items() if k != B},
            "layers.0.self_attn.q_proj",
            AdapterError,
        ),
        (
            lambda t: {k: v for k, v in t.items() if Q not in k},
            "layers.0.self_attn.q_proj",
            AdapterError,
        ),
        (
            lambda t: t | {A: torch.full_like(t[A], float("nan"))},
            "q_proj.lora_A.weight' holds NaN",
            AdapterError,
        ),
        (
            lambda t: t | {B: torch.full_like(t[B], -float("inf")).bfloat16()},
            "q_proj.lora_B.weight' holds NaN",
            AdapterError,
        ),
        (
            lambda t: t | {B: torch.full_like(t[B], float("inf")).half()},
            "q_proj.lora_B.weight' holds NaN",
            AdapterError,
        ),
        (lambda t: t | {A: t[A].to(torch.int32)}, "I32", AdapterError),
        (lambda t: t | {A: t[A].to(torch.int64)}, "I64", AdapterError),
        (lambda t: t | {A: t[A][:-1].contiguous()}, "rank", AdapterError),
        (lambda t: t | {A: t[A][:, :-1].contiguous()}, "q_proj", BaseMismatchError),
        (lambda t: t | {A: t[A][0]}, "q_proj", AdapterError),
        (
            lambda t: (
                t
                | {
                    k.replace("q_proj", "k_proj"): v[:32].clone() if ".lora_B" in k else v.clone()
                    for k, v in t.items()
                    if "q_proj" in k
                }
            ),
            "k_proj",
            AdapterError,
        ),
        (
            lambda t: {k.replace("self_attn", "attention"): v for k, v in t.items()},
            "attention",
            BaseMismatchError,
        ),
        (
            lambda t: t | {A.replace("model.layers", "vision_tower.layers"): t[A].clone()},
            "vision_tower",
            AdapterError,
        ),
        (
            lambda t: t | {A.replace("layers.0", "layers.9"): t[A].clone()},
            "layers.9",
            BaseMismatchError,
        ),
        (lambda t: t | {"x" * 600: t[A].clone()}, "no name of a tensor", AdapterError),
        (lambda t: t | {"line\nbreak": t[A].clone()}, "no name of a tensor", AdapterError),
        (lambda t: {}, "no tensors", AdapterError),
    ],
    ids=range(34),
)
def test_tensors(base: DescribedBase, good: Path, change: Callable, names: str, kind: type) -> None:
    edit_tensors(good, change)
    assert_refused(base, good, names, kind)


@pytest.mark.parametrize(
    ("lora", "change", "names"),
    [
        (
            {"modules_to_save": ["embed_tokens"]},
            lambda t: t | {f"{EMBED}.modules_to_save.weight": ROWS},
            "same part",
        ),
        (
            {"target_modules": ["q_proj", "lm_head"]},
            lambda t: t | {f"{HEAD}.weight": ROWS},
            "lm_head.weight' .* is not what the config calls for",
        ),
        (
            {"target_modules": ["q_proj", "embed_tokens"]},
            lambda t: t | {f"{EMBED}.lora_embedding_A": torch.zeros(4, 260)},
            "258 in .*embed_tokens.*260 in .*lora_embedding_A",
        ),
        (
            {"trainable_token_indices": [1, 2]},
            lambda t: t | {f"{EMBED}.token_adapter.trainable_tokens_delta": torch.zeros(3, 64)},
            "3, 64. rows for 2",
        ),
        (
            {"use_dora": True},
            lambda t: t | {f"{Q}.lora_magnitude_vector": torch.ones(63)},
            "magnitude",
        ),
        (
            {"alora_invocation_tokens": [1]},
            lambda t: t | {f"{x}.weight": torch.ones(259, 64) for x in (EMBED, HEAD)},
            "alora_invocation_tokens",
        ),
    ],
    ids=range(6),
)
def test_parts(
    base: DescribedBase, tiny_base: Path, tmp_path: Path, lora: dict, change: Callable, names: str
) -> None:
    directory = save_adapter(tiny_base, tmp_path / "adapter", **lora)
    edit_tensors(directory, change)
    with pytest.raises(AdapterError, match=names):
        read_adapter(directory, base, max_bytes=1 << 30, max_added_tokens=8)


@pytest.mark.parametrize(
    ("lora", "fields", "names"),
    [
        (
            {"trainable_token_indices": [1]},
            {"trainable_token_indices": [258 + 8]},
            "adds 9 tokens",
        ),
        (
            {"trainable_token_indices": [1]},
            {"target_modules": ["q_proj", "v_proj", "embed_tokens"]},
            "target_modules and",
        ),
        ({"modules_to_save": ["norm"]}, {"modules_to_save": None}, "norm.weight"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, {"alora_invocation_tokens": [1]}, "embed"),
        ({}, {"target_modules": ["q_proj", "v_proj", "model.norm"]}, "LoRA on a norm"),
    ],
    ids=range(5),
)
def test_combinations(
    base: DescribedBase, tiny_base: Path, tmp_path: Path, lora: dict, fields: dict, names: str
) -> None:
    directory = save_adapter(tiny_base, tmp_path / "adapter", **lora)
    edit_config(directory, **fields)
    assert_refused(base, directory, names)


def test_ties_that_do_not_hold(tmp_path: Path) -> None:
    """What PEFT would read as one tensor must be equal where the file has it twice."""
    path = save_base(tmp_path / "gemma2", "gemma2")
    tied = describe_base(path)
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        (
            {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
            f"{HEAD}.lora_A.weight",
        ),
        ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, f"{HEAD}.weight"),
        ({"target_modules": ["q_proj", "embed_tokens", "lm_head"]}, f"{HEAD}.base_layer.weight"),
    )
    for i, (lora, key) in enumerate(cases):

        def raised(t: dict[str, torch.Tensor], key: str = key) -> dict[str, torch.Tensor]:
            return t | {key: t[key] + 1}

        directory = save_adapter(path, tmp_path / f"adapter{i}", **lora)
        edit_tensors(directory, raised)
        assert_refused(tied, directory, "differ")


def test_an_adapter_that_peft_would_reload_otherwise(tmp_path: Path) -> None:
    """PEFT ties GPT-2's lm_head once and forgets it in the saved config: its tensors have no place
    in it."""
    path = save_base(tmp_path / "gpt2", "gpt2")
    directory = save_adapter(
        path,
        tmp_path / "adapter",
        target_modules=["c_attn", "wte", "lm_head"],
        ensure_weight_tying=True,
    )
    assert_refused(describe_base(path), directory, "lm_head.lora_A.weight")


def test_an_adapter_of_another_base(base: DescribedBase, tmp_path: Path) -> None:
    other = save_adapter(
        save_base(tmp_path / "phi3", "phi3"), tmp_path / "adapter", target_modules=["qkv_proj"]
    )
    assert_refused(base, other, "qkv_proj.*made for .*phi3", BaseMismatchError)


def test_damaged_files(base: DescribedBase, good: Path) -> None:
    weights, config = good / "adapter_model.safetensors", good / "adapter_config.json"
    data = weights.read_bytes()
    length = int.from_bytes(data[:8], "little")
    for damaged, reason in (
        (data[: len(data) // 2], "its tensors take bytes"),
        (data[:4], "it has 4 bytes"),
        (b"", "it has 0 bytes"),
        (data + b"x", "its tensors take bytes"),
        (b"\xff" * 64, "its header of 18446744073709551615 bytes is longer"),
        (
            (1 << 62).to_bytes(8, "little") + data[8:],
            "its header of 4611686018427387904 bytes is longer",
        ),
        (data[:8] + b"\xff" * length + data[8 + length :], "its header is not valid JSON"),
        (data[:8] + b"[" * length + data[8 + length :], "its header is not a JSON object"),
        (
            data[:8] + b"3" + b" " * (length - 1) + data[8 + length :],
            "its header is not a JSON object",
        ),
    ):
        weights.write_bytes(damaged)
        assert_refused(base, good, f"adapter_model.safetensors is corrupt: {reason}")
    weights.unlink()
    (good / "adapter_model.bin").write_bytes(b"a pickle")
    assert_refused(base, good, "adapter_model.safetensors is missing")
    for text in ("{", "[]", "[" * 100_000, '{"r": 1, "r": 2}', '{"r": ' + "1" * 9999 + "}"):
        config.write_text(text)
        assert_refused(base, good, "adapter_config.json")
    config.write_bytes(b" " * (2 << 20))
    assert_refused(base, good, "larger than the limit")
    config.unlink()
    assert_refused(base, good, "adapter_config.json is missing")
    shutil.rmtree(good)
    assert_refused(base, good, "is missing")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda e: e.update(dtype="F16"), "not its size"),
        (lambda e: e.update(dtype=["F32"]), "dtype"),
        (lambda e: e.update(shape=[1 << 62, 1 << 62]), "not its size"),
        (lambda e: e.update(shape=[-1, -64]), "shape"),
        (lambda e: e.update(shape=[1] * 100), "shape"),
        (
            lambda e: e.update(data_offsets=[e["data_offsets"][0] + 4, e["data_offsets"][1] + 4]),
            "overlap|gap|take bytes",
        ),
        (lambda e: e.update(data_offsets=[0]), "data_offsets"),
        (lambda e: e.update(data_offsets=[0.0, 4.0]), "data_offsets"),
        (lambda e: e.pop("shape"), "not described"),
        (lambda e: e.update(more=1), "not described"),
    ],
    ids=range(10),
)
def test_damaged_headers(base: DescribedBase, good: Path, change: Callable, reason: str) -> None:
    path = good / "adapter_model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header[A])
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    assert_refused(base, good, reason)


def test_headers_over_the_limits(
    base: DescribedBase, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_runtime.adapters.peft.safetensors_header.MAX_TENSORS", 3)
    assert_refused(base, good, "names more than 3 tensors")
    monkeypatch.setattr("lora_runtime.adapters.peft.safetensors_file.MAX_HEADER_BYTES", 100)
    assert_refused(base, good, "over the limit of 100")
    assert_refused(base, good, "larger than the limit of 1000 bytes", max_bytes=1000)


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"]
)
def test_things_that_are_no_files(base: DescribedBase, good: Path, name: str) -> None:
    path = good / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    assert_refused(base, good, f"{name} is not a regular file")
    path.unlink()
    path.mkdir()
    assert_refused(base, good, f"{name} is not a regular file")
    path.rmdir()
    path.symlink_to("/dev/zero")
    assert_refused(base, good, f"{name} is not a regular file")
    path.unlink()
    path.symlink_to(path)
    assert_refused(base, good, f"{name} cannot be read")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_links_out_of_the_roots(base: DescribedBase, good: Path, tmp_path: Path, name: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    adapter = Path(shutil.move(good, root / "adapter"))
    blob = Path(shutil.move(adapter / name, root / "blob"))
    (adapter / name).symlink_to("../blob")
    assert read_adapter(adapter, base, max_bytes=1 << 30, max_added_tokens=0, roots=[root]).version
    shutil.move(blob, outside / "blob")
    (adapter / name).unlink()
    (adapter / name).symlink_to(outside / "blob")
    assert_refused(base, adapter, f"{name} leads to a file outside", roots=[root])
    assert_refused(base, adapter, f"{name} leads to a file outside", roots=[root, tmp_path / "out"])
    assert read_adapter(
        adapter, base, max_bytes=1 << 30, max_added_tokens=0, roots=[root, outside]
    ).version
    assert read_adapter(adapter, base, max_bytes=1 << 30, max_added_tokens=0).version
    (root / "link").symlink_to(outside)
    shutil.copytree(adapter, outside / "other")
    assert_refused(base, root / "link" / "other", "outside", roots=[root])


def test_a_refused_adapter_leaves_nothing(
    make_engine: Callable[..., Engine], good: Path, tmp_path: Path
) -> None:
    engine = make_engine(max_adapter_bytes=1 << 20)
    edit_config(good, r=5)
    for path, names in ((good, "rank 5"), (tmp_path / "nowhere", "not a directory")):
        with pytest.raises(AdapterError, match=names):
            engine.load_adapter(path, "bad")
        assert engine.stats().adapters == engine.stats().adapter_bytes == 0
        with pytest.raises(UnknownAdapterError):
            engine.generate(Request(prompt="hi", adapter_id="bad"))


@pytest.mark.parametrize("name", ["", "x" * 257, "line\nbreak"])
def test_bad_adapter_ids(make_engine: Callable[..., Engine], good: Path, name: str) -> None:
    engine = make_engine()
    with pytest.raises(AdapterError, match="adapter id"):
        engine.load_adapter(good, name)
    assert engine.list_adapters() == []


def test_harmless_fields_are_accepted_and_noted(base: DescribedBase, good: Path) -> None:
    edit_config(
        good,
        lora_dropout=0.5,
        revision="main",
        peft_version="9",
        use_dora=False,
        modules_to_save=None,
        init_lora_weights="gaussian",
        task_type="FEATURE_EXTRACTION",
        future=False,
        bias="all",
    )
    notes = read_adapter(good, base, max_bytes=1 << 30, max_added_tokens=0).notes
    assert [note.split(" ")[0] for note in notes] == [
        "lora_dropout",
        "init_lora_weights",
        "task_type",
    ]
