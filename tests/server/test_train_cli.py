"""`loramux train`: flags, publication to a running server, and what signals do to the process."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from loramux.v1 import adapters_pb2
from typer.testing import CliRunner, Result

from lora_runtime.training import TrainConfig, train
from server.cli import app
from server.cli import train as command

from ..support.servers import free_port, make_settings, running
from ..support.tokens import token_of, write_tokens
from ..support.training import assert_same_tensors, chat, make_config, write_rows

ROOT = Path(__file__).parents[2]
QUICK = (
    "--dtype",
    "float32",
    "--threads",
    "1",
    "--batch-size",
    "4",
    "--learning-rate",
    "0.01",
    "--epochs",
    "2",
)
ROWS = [chat(f"who {i}?", f"it is {i}") for i in range(8)]


async def run(
    base: Path, out: Path, *args: str, code: int = 0, env: dict[str, str] | None = None
) -> Result:
    data = write_rows(out.parent / "rows.jsonl", ROWS)
    line = ["train", "--base", str(base), "--data", str(data), "--out", str(out), *QUICK, *args]
    result = await asyncio.to_thread(CliRunner().invoke, app, line, env=env)
    assert result.exit_code == code, result.output
    return result


def test_every_setting_is_a_flag_with_the_same_default() -> None:
    flags = {p.name: p.default for p in command._parameters()}
    own = {
        "publish",
        "name",
        "publish_path",
        "target_regex",
        "context",
        "tls",
        "ca",
        "cert",
        "key",
        "token_file",
    }
    fields = {f.name: f for f in dataclasses.fields(TrainConfig)}
    assert flags.keys() - own == fields.keys()
    for name, field in fields.items():
        if field.default_factory is not dataclasses.MISSING:
            assert flags[name] is None, name
        elif field.default is dataclasses.MISSING:
            assert flags[name] is inspect.Parameter.empty, name
        else:
            expected = ",".join(field.default) if name == "targets" else field.default
            assert flags[name] == expected, name


async def test_flags_become_settings(tiny_base: Path, tmp_path: Path) -> None:
    result = await run(
        tiny_base,
        tmp_path / "out",
        "--targets",
        "q_proj, o_proj",
        "--rank-pattern",
        "o_proj=2",
        "--alpha-pattern",
        "o_proj=3",
        "--rslora",
        "--dora",
        "--init",
        "B",
        "--eval-fraction",
        "0",
    )
    assert f"{tmp_path / 'out'}: 4 steps (done), loss " in result.stdout
    assert "tokens/s" in result.stderr
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["target_modules"], config["rank_pattern"], config["alpha_pattern"]) == (
        ["o_proj", "q_proj"],
        {"o_proj": 2},
        {"o_proj": 3},
    )
    assert (config["use_rslora"], config["use_dora"]) == (True, True)
    again = await run(tiny_base, tmp_path / "out", code=1)
    assert "of an earlier run" in again.stderr
    await run(
        tiny_base, tmp_path / "out", "--overwrite", "--target-regex", r".*layers\.0\..*(q|v)_proj"
    )
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == r".*layers\.0\..*(q|v)_proj"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--rank", "0"), "rank must be at least 1"),
        (("--init", "lora_ga"), "looks at data"),
        (("--rank-pattern", "q_proj"), "--rank-pattern 'q_proj' is not MODULE=RANK"),
        (("--alpha-pattern", "q_proj=x"), "--alpha-pattern 'q_proj=x' is not MODULE=ALPHA"),
        (
            ("--rank-pattern", "q_proj=2", "--rank-pattern", "q_proj=4"),
            "--rank-pattern names 'q_proj' twice",
        ),
        (
            ("--targets", "q_proj", "--target-regex", "q.*"),
            "--targets and --target-regex exclude each other",
        ),
        (("--rank", "8", "--budget", "4000"), "--rank and --budget exclude each other"),
        (
            ("--eval-fraction", "0.1", "--eval-data", "x"),
            "--eval-fraction and --eval-data exclude each other",
        ),
        (("--name", "x"), "need --publish"),
    ],
)
async def test_wrong_flags(
    tiny_base: Path, tmp_path: Path, args: tuple[str, ...], words: str
) -> None:
    assert words in (await run(tiny_base, tmp_path / "out", *args, code=2)).stderr
    assert not (tmp_path / "out").exists()


async def test_errors_are_one_line(tiny_base: Path, tmp_path: Path) -> None:
    result = await run(tiny_base, tmp_path / "out", "--targets", "c_attn", code=1)
    assert "target 'c_attn' is no module of the base" in result.stderr
    assert "Traceback" not in result.output
    result = await run(tmp_path / "none", tmp_path / "out", code=1)
    assert "is not a directory" in result.stderr


async def test_publish(tiny_base: Path, tmp_path: Path) -> None:
    """The adapter answers on the server, and what is printed are the server's answers."""
    async with running(make_settings(tiny_base, adapter_roots=[tmp_path])) as served:
        result = await run(
            tiny_base, tmp_path / "mine", "--publish", served.target, "--epochs", "12"
        )
        assert f"{served.target} serves mine, version " in result.stdout
        listed = await served.adapters.ListAdapters(adapters_pb2.ListAdaptersRequest())
        assert [a.adapter_id for a in listed.adapters] == ["mine"]
        lines = result.stdout.splitlines()
        asked = (
            next(line for line in lines if line.startswith("prompt")).removeprefix("prompt").strip()
        )
        assert asked in [row["messages"][0]["content"] for row in ROWS]
        for adapter, label in (("", "base"), ("mine", "mine")):
            answer = await served.generate(
                adapter_id=adapter, messages=[{"role": "user", "content": asked}], max_new_tokens=64
            )
            shown = next(line for line in result.stdout.split("\n") if line.startswith(f"{label} "))
            assert shown == f"{label:12} {answer.choices[0].text.strip()}".split("\n")[0]
        # a finished run is not trained again to be published under another name
        again = await run(
            tiny_base,
            tmp_path / "mine",
            "--publish",
            served.target,
            "--epochs",
            "12",
            "--resume",
            "auto",
            "--name",
            "other",
        )
        assert "serves other, version" in again.stdout


async def test_publish_to_a_server_that_cannot(tiny_base: Path, tmp_path: Path) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    assert (
        "UNAVAILABLE"
        in (await run(tiny_base, tmp_path / "out", "--publish", nobody, code=1)).stderr
    )
    assert not (tmp_path / "out").exists()  # nothing was trained
    tokens = write_tokens(
        tmp_path / "tokens.yaml",
        root={"adapters": ["*"], "admin": True},
        user={"adapters": ["*"]},
        other={"adapters": ["x"], "admin": True},
    )
    root = tmp_path / "root"
    root.mkdir()
    settings = make_settings(tiny_base, adapter_roots=[root], auth_file=tokens)
    async with running(settings) as served:
        publish = ("--publish", served.target)
        result = await run(tiny_base, tmp_path / "out", *publish, code=1)
        assert "UNAUTHENTICATED" in result.stderr
        env = {"LORAMUX_TOKEN": token_of("root")}
        result = await run(tiny_base, tmp_path / "out", *publish, code=1, env=env)
        assert "PERMISSION_DENIED: the path is outside the server's adapter roots" in result.stderr
        assert "--adapter-root" in result.stderr
        for user in ("user", "other"):
            env_of = {"LORAMUX_TOKEN": token_of(user)}
            assert (
                "PERMISSION_DENIED"
                in (await run(tiny_base, root / "out", *publish, code=1, env=env_of)).stderr
            )
        assert not (tmp_path / "out").exists()
        assert not (root / "out").exists()  # all of that before training
        result = await run(
            tiny_base, root / "a b", *publish, "--publish-path", "gone", code=1, env=env
        )
        assert "--publish-path" in result.stderr
        assert f"loramux adapters load gone --name 'a b' --target {served.target}" in result.stderr
        (tmp_path / "token").write_text(token_of("other"))
        result = await run(
            tiny_base,
            root / "x",
            *publish,
            "--publish-path",
            "x",
            "--token-file",
            str(tmp_path / "token"),
        )
        assert "serves x, version" in result.stdout  # though this token cannot ask the base
        assert (
            "base         not asked: PERMISSION_DENIED: the base model is outside" in result.stdout
        )


async def test_a_stop_behind_the_last_step_publishes_nothing(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: Any) -> None:
        raise AssertionError("it was published")

    monkeypatch.setattr(command.Publication, "check", lambda *_: None)
    monkeypatch.setattr(command.Publication, "load", loaded)
    monkeypatch.setattr(command._Signals, "is_met", True)
    result = await run(tiny_base, tmp_path / "out", "--publish", "127.0.0.1:1", code=130)
    assert "stopped behind the last step: the adapter is written" in result.stderr
    assert (tmp_path / "out" / "adapter_config.json").exists()


async def test_only_a_stop_that_saved_speaks_of_a_checkpoint(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second Ctrl-C meets the run where it is."""

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command._Signals, "watch", lambda self, model: interrupted(model))
    result = await run(tiny_base, tmp_path / "out", code=130)
    assert "stopped at once: nothing is saved since the last checkpoint" in result.stderr


@pytest.mark.slow
def test_a_killed_process_and_a_stopped_one_lose_nothing(tiny_base: Path, tmp_path: Path) -> None:
    """SIGKILL at no moment in particular, then Ctrl-C, then the rest: losses and weights of an
    uninterrupted run."""
    write_rows(tmp_path / "data.jsonl", ROWS)
    fields: dict[str, Any] = {
        "save_every": 1,
        "dropout": 0.1,
        "eval_fraction": 0.2,
        "max_steps": 120,
    }
    whole = train(
        make_config(tiny_base, tmp_path, out=tmp_path / "whole", **fields | {"save_every": 0})
    )
    config = make_config(tiny_base, tmp_path, resume="auto", **fields)
    line = [
        sys.executable,
        "-m",
        "server",
        "train",
        "--base",
        str(tiny_base),
        "--data",
        str(config.data),
        "--out",
        str(config.out),
        *QUICK,
        "--rank",
        "4",
        "--max-steps",
        "120",
        "--save-every",
        "1",
        "--dropout",
        "0.1",
        "--eval-fraction",
        "0.2",
        "--resume",
        "auto",
        "--device",
        config.device,
    ]
    for number, lines, code in ((signal.SIGKILL, 8, -9), (signal.SIGINT, 20, 130)):
        process = subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        _wait_for_steps(process, config.out / "metrics.jsonl", lines)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == code, stderr
    assert "stopping behind this step, with a checkpoint; once more stops at once" in stderr
    assert "stopped behind a checkpoint; --resume auto goes on" in stderr
    result = train(dataclasses.replace(config, save_every=0))
    assert result.losses == whole.losses
    assert result.eval_losses == whole.eval_losses
    assert_same_tensors(result.adapter, whole.adapter)


def _wait_for_steps(process: subprocess.Popen[str], metrics: Path, lines: int) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if metrics.exists() and metrics.read_text().count("\n") > lines:
            return
        time.sleep(0.01)
    raise AssertionError(f"the run wrote no {lines} lines: {process.poll()}")
