"""train() on the tiny base: what it learns, what it leaves alone, what it refuses."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lora_runtime import BaseModelError, DivergedError, TrainingError
from lora_runtime.adapters.peft.inspect import inspect_adapter
from lora_runtime.model.loading import identity_of
from lora_runtime.modules import BaseModule, ModuleKind
from lora_runtime.training import StepReport, TrainConfig, train
from lora_runtime.training.batches import collate
from lora_runtime.training.data import read_rows
from lora_runtime.training.encoding import Encoder, encode_rows
from lora_runtime.training.loop import Loop
from lora_runtime.training.model import base_dtype
from lora_runtime.training.schedule import learning_rate
from lora_runtime.training.targets import spread

from ...support.device import DEVICE
from ...support.models import EOS, VOCAB, make_tokenizer, save_base
from ...support.training import assert_same_tensors, chat, make_config, tensors, write_rows


def test_the_loss_is_transformers_own_and_falls(tiny_base: Path, tmp_path: Path) -> None:
    config = make_config(tiny_base, tmp_path, batch_size=12, epochs=8, device=DEVICE)
    rows = encode_rows(
        Encoder(make_tokenizer(), frozenset({EOS}), VOCAB),
        read_rows(config.data).rows,
        config.data,
        512,
        "refuse",
    )
    expected = []

    def on_model(model: Any) -> None:
        with torch.no_grad():
            expected.append(float(model(**collate(rows.examples, model.device)).loss))

    reports: list[StepReport] = []
    result = train(config, on_model=on_model, on_step=reports.append)
    assert result.losses[0][1] == pytest.approx(expected[0], rel=1e-5)
    assert result.losses[-1][1] < 0.7 * result.losses[0][1]
    assert [(r.step, r.loss) for r in reports] == result.losses
    assert (result.steps, result.stopped, result.weights_step) == (8, "done", 8)
    assert all(r.tokens_per_s > 0 and r.total_steps == 8 for r in reports)


def test_what_a_run_leaves(tiny_base: Path, tmp_path: Path) -> None:
    config = make_config(
        tiny_base, tmp_path, eval_fraction=0.2, base_name="hub: tiny", description="It counts."
    )
    result = train(config)
    assert result.adapter == config.out
    assert sorted(p.name for p in config.out.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "checkpoint.pt",
        "loss.png",
        "metrics.jsonl",
    ]
    assert (config.out / "loss.png").read_bytes().startswith(b"\x89PNG")
    card = (config.out / "README.md").read_text()
    base = AutoModelForCausalLM.from_pretrained(tiny_base)
    assert 'base_model: "hub: tiny"' in card
    for part in (
        identity_of(tiny_base, base),
        read_rows(config.data).sha256,
        "It counts.",
        '"rank": 4',
        f"{result.losses[-1][1]:.4f}",
        f"{result.eval_loss:.4f}",
        "10 trained on",
    ):
        assert part in card
    assert (
        json.loads((config.out / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "hub: tiny"
    )
    lines = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines if "loss" in line] == result.losses
    assert [
        (line["step"], line["eval_loss"]) for line in lines if "eval_loss" in line
    ] == result.eval_losses
    assert [step for step, _ in result.eval_losses] == [0, 3, 6]
    assert result.held_out is not None
    assert len(inspect_adapter(config.out, tiny_base).modules) == 6


@pytest.mark.parametrize(
    ("umask", "modes"),
    [(0o022, {0o755, 0o644}), (0o027, {0o750, 0o640})],
    ids=["022", "027"],
)
def test_others_may_read_it_as_the_umask_says(
    tiny_base: Path, tmp_path: Path, umask: int, modes: set[int]
) -> None:
    """A server often runs as another user; safetensors' own writer leaves private files."""
    config = make_config(tiny_base, tmp_path, out=tmp_path / "new" / "out", save_every=2, epochs=1)
    before = os.umask(umask)
    try:
        train(config)
        (config.out / "adapter_model.safetensors").chmod(0o600)
        train(dataclasses.replace(config, overwrite=True))
    finally:
        os.umask(before)
    files = list(config.out.iterdir())
    assert {"adapter_model.safetensors", "checkpoint.pt"} <= {file.name for file in files}
    written = [config.out.parent, config.out, *files]
    assert {path.stat().st_mode & 0o777 for path in written} == modes


def test_one_seed_gives_one_adapter_and_another_gives_another(
    tiny_base: Path, tmp_path: Path
) -> None:
    runs = [
        train(
            make_config(tiny_base, tmp_path, out=tmp_path / str(i), dropout=0.2, seed=seed)
        ).adapter
        for i, seed in enumerate((1, 1, 2))
    ]
    assert_same_tensors(runs[0], runs[1])
    assert any(not torch.equal(t, tensors(runs[2])[n]) for n, t in tensors(runs[0]).items())


def test_accumulated_steps_are_those_of_one_large_batch(tiny_base: Path, tmp_path: Path) -> None:
    """Rows of different lengths: a mean of the parts' means would be another loss."""
    data = write_rows(
        tmp_path / "data.jsonl",
        [chat("q" * (1 + i % 5), "a" * (1 + 7 * (i % 3))) for i in range(12)],
    )
    results = [
        train(
            make_config(
                tiny_base,
                tmp_path,
                data=data,
                out=tmp_path / f"{size}",
                batch_size=size,
                grad_accumulation=parts,
            )
        )
        for size, parts in ((4, 1), (2, 2), (1, 4))
    ]
    for result in results[1:]:
        for (_, loss), (_, expected) in zip(result.losses, results[0].losses, strict=True):
            assert loss == pytest.approx(expected, rel=1e-3)


def test_only_the_adapter_trains_and_the_base_keeps_its_bits(
    tiny_base: Path, tmp_path: Path
) -> None:
    before = {p.name: p.read_bytes() for p in tiny_base.iterdir()}
    seen: dict[str, Any] = {}

    def on_model(model: Any) -> None:
        seen["trained"] = {n: p.dtype for n, p in model.named_parameters() if p.requires_grad}
        seen["base"] = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
        seen["model"] = model

    train(make_config(tiny_base, tmp_path, dora=True, dtype="bfloat16"), on_model=on_model)
    assert {name.split(".default")[0].rpartition(".")[2] for name in seen["trained"]} == {
        "lora_A",
        "lora_B",
        "lora_magnitude_vector",
    }
    assert set(seen["trained"].values()) == {torch.float32}
    assert {p.dtype for p in seen["base"].values()} == {torch.bfloat16}
    now = dict(seen["model"].named_parameters())
    assert all(torch.equal(p, now[n]) and now[n].grad is None for n, p in seen["base"].items())
    assert {p.name: p.read_bytes() for p in tiny_base.iterdir()} == before


def test_a_base_that_would_train_or_change_is_noticed(tiny_base: Path, tmp_path: Path) -> None:
    def unfreeze(model: Any) -> None:
        model.get_base_model().lm_head.weight.requires_grad_(True)

    def touch(report: StepReport) -> None:
        with torch.no_grad():
            report.model.get_base_model().lm_head.weight[0, 0] += 1e-3

    with pytest.raises(
        TrainingError, match=r"the base is not frozen: .*lm_head\.weight has a gradient"
    ):
        train(make_config(tiny_base, tmp_path), on_model=unfreeze)
    with pytest.raises(TrainingError, match="weights have changed"):
        train(make_config(tiny_base, tmp_path, overwrite=True), on_step=touch)
    assert not (tmp_path / "out" / "adapter_model.safetensors").exists()


def test_early_stop_keeps_the_best_weights(tiny_base: Path, tmp_path: Path) -> None:
    """The held-out rows ask for the opposite of what is trained: after a while it only gets worse."""
    other = write_rows(tmp_path / "eval.jsonl", [chat(f"who {i}?", "zzz zzz") for i in range(4)])
    fields: dict[str, Any] = {
        "eval_data": other,
        "eval_every": 1,
        "schedule": "constant",
        "warmup": 0.0,
        "learning_rate": 0.05,
    }
    result = train(make_config(tiny_base, tmp_path, patience=3, epochs=30, **fields))
    assert result.stopped == "early stop"
    trained = dict(result.eval_losses[1:])
    assert result.weights_step == min(trained, key=lambda step: trained[step]) == result.steps - 3
    shorter = train(
        make_config(
            tiny_base, tmp_path, out=tmp_path / "best", max_steps=result.weights_step, **fields
        )
    )
    assert shorter.stopped == "max steps"
    assert_same_tensors(result.adapter, shorter.adapter)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run(
    tiny_base: Path, tmp_path: Path, poison: float
) -> None:
    def spoil(report: StepReport) -> None:
        if report.step == 3:
            next(p for n, p in report.model.named_parameters() if "lora_B" in n).data[0, 0] = poison

    with pytest.raises(DivergedError) as caught:
        train(make_config(tiny_base, tmp_path, save_every=2, schedule="constant"), on_step=spoil)
    assert (caught.value.step, caught.value.learning_rate) == (4, 1e-2)
    assert "step 4, learning rate 0.01: the loss is" in str(caught.value)
    assert "the checkpoint of step 2 is whole" in str(caught.value)
    assert (
        train(
            make_config(tiny_base, tmp_path, save_every=2, schedule="constant", resume="auto")
        ).steps
        == 6
    )


def test_weights_that_are_not_finite_are_never_saved(tiny_base: Path, tmp_path: Path) -> None:
    def spoil(report: StepReport) -> None:
        if report.step == 2:
            next(p for n, p in report.model.named_parameters() if "lora_B" in n).data[0, 0] = float(
                "nan"
            )

    with pytest.raises(
        DivergedError, match=r"step 2.*not finite; the checkpoint of step 1 is whole"
    ):
        train(make_config(tiny_base, tmp_path, save_every=1), on_step=spoil)


def test_the_budget_is_spread_as_documented() -> None:
    def modules(**kinds: tuple[int, int]) -> dict[str, BaseModule]:
        return {
            f"layers.{i}.{k}": BaseModule(ModuleKind.LINEAR, a, b, False)
            for i in range(2)
            for k, (a, b) in kinds.items()
        }

    square = {
        "q_proj": (100, 100),
        "v_proj": (100, 100),
        "k_proj": (100, 100),
        "o_proj": (100, 100),
    }
    for kinds, rank in ((["q_proj"], 8), (["q_proj", "v_proj"], 4), (list(square), 2)):
        assert spread(3200, modules(**{k: square[k] for k in kinds})) == (rank, {})
    mixed = modules(q_proj=(64, 64), v_proj=(64, 32), up_proj=(64, 96))
    assert spread(2 * (128 + 96 + 160), mixed) == (1, {})
    # 1538 - 768 = 770 are left: up and q together (576) and not v (192) with them; two more of all
    # would be 768.
    assert spread(768 + 767, mixed) == (1, {"q_proj": 2, "up_proj": 2})
    assert spread(768 + 200, mixed) == (1, {"v_proj": 2})
    with pytest.raises(TrainingError, match="rank 1 of q_proj, v_proj, up_proj takes 768"):
        spread(767, mixed)


def test_a_budget_is_kept(tiny_base: Path, tmp_path: Path) -> None:
    result = train(
        make_config(
            tiny_base, tmp_path, budget=5000, targets=("q_proj", "v_proj", "down_proj"), max_steps=1
        )
    )
    config = json.loads((result.adapter / "adapter_config.json").read_text())
    spent = sum(t.numel() for t in tensors(result.adapter).values())
    assert config["r"] == 4
    assert config["rank_pattern"] == {"q_proj": 5}
    assert (
        spent == 3 * (5 * 128 + 4 * 96 + 4 * 160) == 4992
    )  # one more of v_proj would be 288 over it
    assert config["alpha_pattern"] == {"q_proj": 10}  # the scaling stays 2


def test_the_first_key_that_matches_counts(tiny_base: Path, tmp_path: Path) -> None:
    """In the file too, in which PEFT's writer would sort the keys; a given alpha wins over one that
    follows."""
    one, all_of_them = r"layers\.0\.self_attn\.q_proj", "q_proj"
    result = train(
        make_config(
            tiny_base, tmp_path, rank_pattern={all_of_them: 6}, alpha_pattern={one: 5}, max_steps=1
        )
    )
    config = json.loads((result.adapter / "adapter_config.json").read_text())
    assert list(config["alpha_pattern"].items()) == [(one, 5), (all_of_them, 12)]
    two = {"self_attn.v_proj": 2, "v_proj|q_proj": 6}
    result = train(make_config(tiny_base, tmp_path, rank_pattern=two, max_steps=1, overwrite=True))
    config = json.loads((result.adapter / "adapter_config.json").read_text())
    assert list(config["rank_pattern"].items()) == list(two.items())
    assert list(config["alpha_pattern"]) == list(two)
    assert list(config) == sorted(config)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_shared_weight_cannot_be_changed_at_the_start(tmp_path: Path, init: str) -> None:
    base = save_base(tmp_path / "base", "llama", tie_word_embeddings=True)
    with pytest.raises(
        TrainingError, match=f"init '{init}' is not possible for 'lm_head'.*embed_tokens' shares"
    ):
        train(make_config(base, tmp_path, init=init, targets=("q_proj", "lm_head")))


def test_ranks_and_alphas_by_module(tiny_base: Path, tmp_path: Path) -> None:
    result = train(
        make_config(
            tiny_base,
            tmp_path,
            rank_pattern={"v_proj": 2},
            alpha=3,
            rslora=True,
            max_steps=1,
            save_dtype="bfloat16",
            targets=r".*layers\.[12]\..*(q|v)_proj",
        )
    )
    config = json.loads((result.adapter / "adapter_config.json").read_text())
    assert (config["r"], config["rank_pattern"], config["lora_alpha"]) == (4, {"v_proj": 2}, 3)
    assert (config["use_rslora"], config["alpha_pattern"]) == (True, {})
    saved = tensors(result.adapter)
    assert {t.dtype for t in saved.values()} == {torch.bfloat16}
    assert len(saved) == 8
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), result.adapter)


@pytest.mark.parametrize(
    ("architecture", "chat_template"), [("gpt2", True), ("llama", False), ("gemma2", True)]
)
def test_other_bases(tmp_path: Path, architecture: str, chat_template: bool) -> None:
    """Conv1D layers and dropout of the base; no chat template; soft capping. None of them has a pad
    token."""
    base = save_base(tmp_path / "base", architecture, chat=chat_template)
    rows = (
        None
        if chat_template
        else [{"prompt": f"{i} and", "completion": f" {i + 1}"} for i in range(8)]
    )
    data = write_rows(tmp_path / "rows.jsonl", rows)
    targets = ("c_attn", "c_proj") if architecture == "gpt2" else ("q_proj", "down_proj")
    result = train(make_config(base, tmp_path, data=data, targets=targets, epochs=4))
    assert result.losses[-1][1] < result.losses[0][1]
    inspect_adapter(result.adapter, base)
    if not chat_template:
        with pytest.raises(
            TrainingError, match=r"data\.jsonl:1: the base's tokenizer has no chat template"
        ):
            train(make_config(base, tmp_path, overwrite=True))


def test_a_single_row(tiny_base: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.jsonl", [chat("who?", "me")])
    result = train(make_config(tiny_base, tmp_path, eval_fraction=0.5))
    assert (result.rows, result.steps, result.held_out, result.eval_losses) == (1, 2, None, [])
    assert result.notes == ("a single row: nothing is held out",)
    for name in ("patience", "eval_every"):
        with pytest.raises(TrainingError, match=f"{name} needs an evaluation"):
            train(
                make_config(
                    tiny_base, tmp_path, data=data, eval_fraction=0.5, overwrite=True, **{name: 1}
                )
            )


def test_long_rows_are_reported(tiny_base: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "data.jsonl", [chat("q", "a" * n) for n in (3, 30, 3)])
    with pytest.raises(TrainingError, match=r"data\.jsonl: rows longer than 30 tokens: line 2 has"):
        train(make_config(tiny_base, tmp_path, max_length=30))
    other = write_rows(tmp_path / "other.jsonl", [chat("q", "a"), chat("q", "a" * 30)])
    heard: list[str] = []

    def on_model(_: Any) -> None:
        heard.append("the first step")

    cut = train(
        make_config(tiny_base, tmp_path, max_length=30, long_rows="cut", eval_data=other),
        on_note=heard.append,
        on_model=on_model,
    )
    assert (cut.cut, cut.skipped, cut.rows) == ((2,), (), 3)
    assert heard == [*cut.notes, "the first step"]
    assert cut.notes == tuple(
        f"{tmp_path / name}.jsonl: 1 rows cut as too long: lines 2" for name in ("data", "other")
    )
    skipped = train(
        make_config(tiny_base, tmp_path, max_length=30, long_rows="skip", overwrite=True)
    )
    assert (skipped.cut, skipped.skipped, skipped.rows) == ((), (2,), 2)
    assert "1 skipped as too long" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(TrainingError, match="over the base's context of 512"):
        train(make_config(tiny_base, tmp_path, max_length=513, overwrite=True))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"targets": ("q_proj", "c_attn")},
            "target 'c_attn' is no module of the base; its linear layers are down_proj",
        ),
        ({"targets": ".*nothing"}, "matches no module"),
        ({"targets": ("embed_tokens",)}, "only linear layers are adapted"),
        (
            {"init": "orthogonal", "rank": 3},
            "'model.layers.0.self_attn.q_proj': init 'orthogonal' needs an even rank",
        ),
        ({"budget": 10}, "is too small: rank 1 of"),
        ({"rank_pattern": {"qproj": 4}}, "rank_pattern: 'qproj' decides about none"),
        (
            {"alpha_pattern": {"q_proj": 4, "0.self_attn.q_proj": 3}},
            "alpha_pattern: '0.self_attn.q_proj' decides about",
        ),
        ({"rank": 4097}, "q_proj': the adapter's rank would be 4097, servers take 4096"),
        ({"rank_pattern": {"v_proj": 33}, "init": "pissa"}, "v_proj': rank 33 is above 32"),
        ({"init": "olora", "rank": 2049}, "rank would be 4098"),
    ],
)
def test_adapters_that_cannot_be_made(
    tiny_base: Path, tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(TrainingError, match=words):
        train(make_config(tiny_base, tmp_path, **fields))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rank": 0}, "rank must be at least 1"),
        ({"eval_fraction": 1.0}, "eval_fraction must be at least 0 and below 1"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite"),
        ({"learning_rate": 1e9}, "must be at most 10"),
        ({"dtype": "float16"}, "dtype must be one"),
        ({"init": "eva"}, "'eva' is not supported: it looks at data"),
        ({"init": "C"}, "init 'C' is none of A, B"),
        (
            {"init": "loftq"},
            "'loftq' is not supported: it makes up for the error of a quantized base",
        ),
        ({"init": "pissa_niter_N"}, "none of"),
        ({"targets": ()}, "targets is empty"),
        ({"targets": "("}, "not a regular"),
        ({"rank_pattern": {"q_proj": 0}}, "must be positive"),
        ({"budget": 1, "rank_pattern": {"q": 1}}, "exclude each"),
        ({"rank": True}, "rank must be a whole"),
        ({"rank_pattern": {"q": 2.5}}, "'q' must be a whole number, got 2.5"),
        ({"alpha_pattern": {"q": float("nan")}}, "'q' must be a finite"),
        ({"alpha": float("inf")}, "alpha must be a fini"),
        ({"weight_decay": float("inf")}, "weight_decay must be a finite"),
        ({"seed": 1 << 63}, "seed must be at most"),
        ({"threads": 5000}, "threads must be at most 1024"),
        ({"dora": 1}, "dora must be true or false"),
        ({"alpha": 0}, "alpha must be positive"),
        ({"resume": "auto", "overwrite": True}, "exclude each other"),
    ],
)
def test_settings_that_could_never_train(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainConfig(base=Path("b"), data=Path("d"), out=Path("o"), **fields)


def test_bases_and_directories_that_cannot_be_used(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="is not a directory"):
        train(make_config(tmp_path / "none", tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="file is not a directory"):
        train(make_config(tiny_base, tmp_path, out=tmp_path / "file"))
    with pytest.raises(TrainingError, match="file/below: Not a directory"):
        train(make_config(tiny_base, tmp_path, out=tmp_path / "file" / "below"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("mine")
    for fields in ({}, {"resume": "auto"}, {"overwrite": True}):
        with pytest.raises(
            TrainingError,
            match=r"has README\.md, which would be replaced, but nothing of an earlier",
        ):
            train(make_config(tiny_base, tmp_path, **fields))
    (tmp_path / "out" / "adapter_config.json").write_text("{}")
    with pytest.raises(TrainingError, match=r"has adapter_config\.json but no checkpoint"):
        train(make_config(tiny_base, tmp_path, resume="auto"))
    assert (tmp_path / "out" / "README.md").read_text() == "mine"
    with pytest.raises(TrainingError, match=r"has adapter_config\.json of an earlier run"):
        train(make_config(tiny_base, tmp_path))
    assert train(make_config(tiny_base, tmp_path, overwrite=True, max_steps=1)).steps == 1


def test_a_base_is_checked_as_for_serving(tiny_base: Path, tmp_path: Path) -> None:
    """Missing weights, a quantisation that says so, an adapter in its place, a device without
    values."""

    def changed(name: str, config: dict[str, Any], drop: str = "") -> Path:
        base = shutil.copytree(tiny_base, tmp_path / name)
        weights = load_file(base / "model.safetensors")
        weights.pop(drop, None)
        save_file(weights, base / "model.safetensors", {"format": "pt"})
        (base / "config.json").write_text(
            json.dumps(json.loads((base / "config.json").read_text()) | config)
        )
        return base

    holes = changed("holes", {}, "model.layers.1.mlp.up_proj.weight")
    with pytest.raises(
        BaseModelError, match=r"no weights for model\.layers\.1\.mlp\.up_proj\.weight"
    ):
        train(make_config(holes, tmp_path))
    packed = changed("packed", {"quantization_config": {"quant_method": "fp8"}})
    with pytest.raises(BaseModelError, match=r"is quantised \(fp8\)"):
        train(make_config(packed, tmp_path))
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "short_factor": [1.0] * 8,
        "long_factor": [4.0] * 8,
        "original_max_position_embeddings": 32,
    }
    with pytest.raises(TrainingError, match="over the base's context of 32 tokens"):
        train(make_config(changed("rope", {"rope_parameters": rope}), tmp_path, max_length=33))
    adapter = changed("adapter", {})
    (adapter / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "nobody/nothing"})
    )
    with pytest.raises(BaseModelError, match="it is an adapter, not a base"):
        train(make_config(adapter, tmp_path))
    with pytest.raises(BaseModelError, match="device 'meta' is not available"):
        train(make_config(tiny_base, tmp_path, device="meta"))
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        TrainingError, match=r"needs peft and matplotlib: pip install 'loramux\[train\]'"
    ):
        train(make_config(tmp_path, tmp_path))


def test_packages_that_cannot_be_imported_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> None:
        raise AttributeError("module 'transformers' has no attribute 'x'")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(
        TrainingError,
        match="peft is installed, but importing it fails: module 'transformers' has no",
    ):
        train(make_config(tmp_path, tmp_path))


def test_short_memory_is_said_with_what_helps(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Loop._gradients

    def short(loop: Loop, rows: Any) -> float:
        if loop.step == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nmore")
        return whole(loop, rows)

    monkeypatch.setattr(Loop, "_gradients", short)
    with pytest.raises(
        TrainingError,
        match=r"step 3: memory is short \(CUDA out of memory\. Tried to allocate 20 GiB"
        r"\); a smaller batch_size .* or max_length .*; the checkpoint of step 2 is whole",
    ):
        train(make_config(tiny_base, tmp_path, save_every=1), on_step=lambda r: None)


def test_peft_is_imported_by_a_run_only() -> None:
    code = "import sys, lora_runtime.training; sys.exit(bool({'peft', 'matplotlib'} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


@pytest.mark.parametrize(("has_it", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bfloat16_is_for_gpus_that_have_it(
    monkeypatch: pytest.MonkeyPatch, has_it: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_it)
    assert base_dtype("auto", torch.device("cuda")) is dtype
    assert base_dtype("float32", torch.device("cuda")) is torch.float32


def test_learning_rates() -> None:
    rates = [learning_rate(1.0, "linear", 0.2, step, 10) for step in range(10)]
    assert rates == pytest.approx([1 / 3, 2 / 3, *(1 - i / 8 for i in range(8))])
    assert learning_rate(1.0, "cosine", 0.0, 5, 10) == pytest.approx(0.5)
    assert {learning_rate(1.0, "constant", 0.0, step, 10) for step in range(10)} == {1.0}
    assert learning_rate(1.0, "cosine", 0.05, 0, 1) > 0
