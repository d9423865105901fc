"""Runs that are stopped, killed or out of disk go on as if nothing had happened."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lora_runtime import TrainingError
from lora_runtime.durable import replace_file
from lora_runtime.training import StepReport, TrainResult, train

from ...support.models import save_base
from ...support.training import assert_same_tensors, make_config, write_rows

RUNS: dict[str, dict[str, Any]] = {
    "dropout": {"dropout": 0.3, "grad_accumulation": 2, "batch_size": 2},
    "early stop": {
        "eval_fraction": 0.3,
        "patience": 2,
        "eval_every": 1,
        "learning_rate": 0.03,
        "epochs": 8,
        "schedule": "constant",
    },
    "pissa with dora": {"init": "pissa_niter_2", "dora": True, "dropout": 0.1},
}


def stop_at(step: int) -> Callable[[StepReport], None]:
    def on_step(report: StepReport) -> None:
        if report.step == step:
            raise KeyboardInterrupt

    return on_step


def assert_same_run(one: TrainResult, other: TrainResult) -> None:
    assert (one.losses, one.eval_losses, one.steps, one.stopped) == (
        other.losses,
        other.eval_losses,
        other.steps,
        other.stopped,
    )
    assert_same_tensors(one.adapter, other.adapter)


@pytest.mark.parametrize("name", RUNS)
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    tiny_base: Path, tmp_path: Path, name: str
) -> None:
    fields = {"epochs": 3, "save_every": 2} | RUNS[name]
    whole = train(make_config(tiny_base, tmp_path, out=tmp_path / "whole", **fields))
    config = make_config(tiny_base, tmp_path, resume="auto", **fields)
    for step in (3, 5):
        with pytest.raises(KeyboardInterrupt):
            train(config, on_step=stop_at(step))
    assert_same_run(train(config), whole)
    metrics = (config.out / "metrics.jsonl").read_text().splitlines()
    assert len(metrics) == len((whole.adapter / "metrics.jsonl").read_text().splitlines())
    assert_same_run(
        train(config), whole
    )  # finished: nothing is trained, everything is written again


def test_dropout_of_the_base_itself_goes_on_too(tmp_path: Path) -> None:
    base = save_base(tmp_path / "gpt2", "gpt2")
    fields: dict[str, Any] = {"targets": ("c_attn",)}
    whole = train(make_config(base, tmp_path, out=tmp_path / "whole", **fields))
    config = make_config(base, tmp_path, resume="auto", **fields)
    with pytest.raises(KeyboardInterrupt):
        train(config, on_step=stop_at(2))
    assert_same_run(train(config), whole)


@contextmanager
def disk_full(after_bytes: int) -> Iterator[None]:
    """No file of this process can grow beyond `after_bytes`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("room", [0, 10_000])
def test_a_full_disk_leaves_the_last_checkpoint(tiny_base: Path, tmp_path: Path, room: int) -> None:
    """`room` 0: the metrics cannot be written either; else only the checkpoint is too large."""
    whole = train(make_config(tiny_base, tmp_path, out=tmp_path / "whole", dropout=0.1))
    config = make_config(tiny_base, tmp_path, dropout=0.1, save_every=1, resume="auto")
    full = disk_full(room)

    def on_step(report: StepReport) -> None:
        if report.step == 3:
            full.__enter__()

    try:
        with pytest.raises(TrainingError) as caught:
            train(config, on_step=on_step)
    finally:
        full.__exit__(None, None, None)
    assert "cannot be written: File too large" in str(caught.value)
    assert "the checkpoint of step 2 is whole" in str(caught.value)
    assert not list(config.out.glob(".*"))
    assert_same_run(train(config), whole)


def test_half_a_checkpoint_beside_the_whole_one_is_never_read(
    tiny_base: Path, tmp_path: Path
) -> None:
    """What a kill in the middle of a write leaves."""
    whole = train(make_config(tiny_base, tmp_path, out=tmp_path / "whole"))
    config = make_config(tiny_base, tmp_path, resume="auto")
    with pytest.raises(KeyboardInterrupt):
        train(config, on_step=stop_at(2))
    saved = (config.out / "checkpoint.pt").read_bytes()
    (config.out / ".checkpoint.pt.new").write_bytes(saved[: len(saved) // 2])
    (config.out / "metrics.jsonl").write_text('{"step": 1, "lo')
    assert_same_run(train(config), whole)
    assert not (config.out / ".checkpoint.pt.new").exists()


def test_writing_aside_follows_no_link_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / ".it.new").symlink_to(tmp_path / "victim")
    replace_file(tmp_path / "it", b"new")
    assert ((tmp_path / "it").read_bytes(), (tmp_path / "victim").read_text()) == (b"new", "mine")

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace_file(tmp_path / "it", b"newer")
    assert (tmp_path / "it").read_bytes() == b"new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["it", "victim"]


def test_checkpoints_that_cannot_be_gone_on_with(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(make_config(tiny_base, tmp_path), on_step=stop_at(2))
    with pytest.raises(TrainingError, match=r"out has metrics\.jsonl of an earlier run"):
        train(make_config(tiny_base, tmp_path))
    with pytest.raises(
        TrainingError, match=r"step 2 was made with learning_rate = 0\.01, this run has 0\.02"
    ):
        train(make_config(tiny_base, tmp_path, resume="auto", learning_rate=0.02))
    other = write_rows(tmp_path / "other.jsonl", [{"prompt": "p", "completion": "c"}])
    with pytest.raises(TrainingError, match="data_sha256"):
        train(make_config(tiny_base, tmp_path, resume="auto", data=other))
    mistral = save_base(tmp_path / "mistral", "mistral")
    with pytest.raises(TrainingError, match="base_identity"):
        train(make_config(mistral, tmp_path, resume="auto"))
    checkpoint = tmp_path / "out" / "checkpoint.pt"
    saved = checkpoint.read_bytes()
    for damaged in (b"", saved[: len(saved) // 2], saved[:100] + b"x" + saved[101:][:-50]):
        checkpoint.write_bytes(damaged)
        with pytest.raises(
            TrainingError, match=r"checkpoint\.pt is not a checkpoint that can be read"
        ):
            train(make_config(tiny_base, tmp_path, resume="auto"))
    checkpoint.unlink()
    (tmp_path / "out" / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(TrainingError, match=r"has adapter_model\.safetensors but no checkpoint"):
        train(make_config(tiny_base, tmp_path, resume="auto"))
