"""A lease loses nothing: stages that hang, crash or are killed cost no other, and the next lease
goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from benchmarks.gpu import lease
from benchmarks.gpu.session.results import read_results
from benchmarks.gpu.stages import NAMES, STAGES, Stage

from . import lease_stages

ROOT = Path(__file__).parents[2]
UNTIMED = 1000.0


@pytest.fixture(autouse=True)
def _own_process_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A lease sets variables and a signal handler of its process, and imports what stages need
    before it forks them: these need nothing."""
    monkeypatch.setattr(lease, "_preload", lambda: True)
    monkeypatch.setattr(lease, "_LEAST_S", 0.5)
    handler = signal.getsignal(signal.SIGTERM)
    with mock.patch.dict(os.environ):
        yield
    signal.signal(signal.SIGTERM, handler)


def stage(name: str, limit_s: float = 60, *, fresh: bool = False) -> Stage:
    return Stage(name, limit_s, fresh, package=lease_stages.__name__)


def run(
    out: Path, stages: Sequence[Stage], *, earlier: Path | None = None, budget_s: float = UNTIMED
) -> dict[str, Any]:
    """The JSON of a lease of these stages behind `environment`."""
    found = read_results(earlier) if earlier else None
    options = Namespace(device="cpu", budget_s=budget_s, out=out, carried=out, repeats=1)
    out.mkdir(exist_ok=True)
    lease.Lease(options).run([stage("environment"), *stages], found)
    return read(out)


def read(out: Path) -> dict[str, Any]:
    return json.loads((out / "lease.json").read_text())


def names(data: dict[str, Any], stage: str) -> list[str]:
    return [row["name"] for row in data["stages"][stage]["rows"]]


@pytest.mark.parametrize("fresh", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_stage_that_fails_costs_no_other(tmp_path: Path, fresh: bool) -> None:
    data = run(
        tmp_path, [stage(name, fresh=fresh) for name in ("raising", "crashing", "missing", "quick")]
    )
    told = {
        name: data["stages"][name]["status"] for name in ("raising", "crashing", "missing", "quick")
    }
    assert told == {
        "raising": "failed",
        "crashing": "killed by SIGSEGV",
        "missing": "unavailable",
        "quick": "done",
    }
    assert (
        names(data, "raising") == names(data, "crashing") == names(data, "quick") == ["one", "two"]
    )
    assert "this is told" in data["stages"]["raising"]["log"]
    assert "no such thing was carried" in data["stages"]["missing"]["log"]


def test_a_stage_is_cut_off_at_its_limit_and_keeps_its_rows(tmp_path: Path) -> None:
    data = run(tmp_path, [stage("hanging", 1.5), stage("quick")])
    assert {name: data["stages"][name]["status"] for name in ("hanging", "quick")} == {
        "hanging": "cut",
        "quick": "done",
    }
    assert names(data, "hanging") == ["one", "two"]
    assert data["stages"]["hanging"]["seconds"] < 30


def test_a_stage_that_is_killed_by_hand(tmp_path: Path) -> None:
    """While it runs the JSON has all that it has found; the rest goes on."""
    seen: list[dict[str, Any]] = []

    def kill() -> None:
        while not (tmp_path / "hangs").exists() or names(read(tmp_path), "hanging") != [
            "one",
            "two",
        ]:
            time.sleep(0.02)  # until the lease has taken its rows too
        seen.append(read(tmp_path))
        os.kill(int((tmp_path / "hangs").read_text()), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    data = run(tmp_path, [stage("hanging"), stage("quick")])
    thread.join()
    assert seen[0]["stages"]["hanging"]["status"] == "running"
    assert data["stages"]["hanging"]["status"] == "killed by SIGKILL"
    assert names(data, "hanging") == names(data, "quick") == ["one", "two"]


def test_the_next_lease_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    first = run(tmp_path / "first", [stage("quick"), stage("raising")])
    first["stages"]["quick"]["rows"][0]["value"] = "of the first"
    first["stages"]["raising"]["rows"][0]["value"] = "of the first"
    (tmp_path / "first.json").write_text(json.dumps(first))
    again = [stage("quick"), stage("raising"), stage("hanging", 1.5)]
    second = run(tmp_path / "second", again, earlier=tmp_path / "first.json")
    assert [row["value"] for row in second["stages"]["quick"]["rows"]] == [
        "of the first",
        1.5,
    ]  # not run again
    assert second["stages"]["quick"]["earlier"]
    assert [row["value"] for row in second["stages"]["raising"]["rows"]] == [
        "of the first",
        1.5,
    ]  # its rows are kept
    assert second["stages"]["raising"]["status"] == "failed"
    assert names(second, "hanging") == ["one", "two"]
    assert len(names(second, "environment")) == 1


def test_another_card_takes_nothing_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "first", [stage("quick")])
    monkeypatch.setenv("TEST_MACHINE", "card B")
    second = run(tmp_path / "second", [stage("quick")], earlier=tmp_path / "first/lease.json")
    assert "earlier" not in second["stages"]["quick"]


def test_what_has_no_time_left_is_not_begun(tmp_path: Path) -> None:
    data = run(tmp_path, [stage("quick")], budget_s=6.2)
    assert data["stages"]["quick"] == {
        "status": "no time",
        "seconds": 0,
        "limit_s": mock.ANY,
        "rows": [],
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "told"),
    [("wrong", "wrong"), ("crash", "killed by SIGSEGV")],
)
def test_a_wrong_tile_is_turned_off_for_what_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, told: str
) -> None:
    monkeypatch.setenv("TEST_STRESS", how)
    data = run(tmp_path, [stage("stress"), stage("after")])
    assert data["stages"]["stress"]["status"] == told
    assert data["stages"]["stress, mma tiles"]["status"] == "done"
    assert names(data, "stress, mma tiles") == ["tiles", "case"]  # which was looked at anew
    assert data["way_out"] == {"LORAMUX_PREFILL_TILES": "mma"}
    assert data["stages"]["after"]["rows"][0]["value"] == 32
    again = run(tmp_path / "again", [stage("after")], earlier=tmp_path / "lease.json")
    assert again["way_out"] == data["way_out"]


@pytest.mark.slow
def test_a_lease_that_is_ended_from_outside(tmp_path: Path) -> None:
    """As a machine's limit does: what was found is there, and nothing goes on running."""
    program = (
        "import sys; from tests.benchmarks.test_lease import run, stage; from pathlib import Path; "
        "run(Path(sys.argv[1]), [stage('hanging'), stage('quick')])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    while not (tmp_path / "hangs").exists():
        time.sleep(0.05)
        assert process.poll() is None
    process.terminate()
    told, _ = process.communicate(timeout=30)
    assert "ended from outside" in told
    assert names(read(tmp_path), "hanging") == ["one", "two"]
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "hangs").read_text()), 0)


def test_every_stage_is_a_module() -> None:
    """And those of its names that a call can ask for are the ones there are."""
    there = {path.stem for path in (ROOT / "benchmarks/gpu/stages").glob("*.py")} - {"__init__"}
    assert there == set(NAMES)
    assert len(NAMES) == len(STAGES)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--stages", "decode,none-such"], "none-such is none of environment"),
        (["--budget-s", "-1"], "--budget-s: -1"),
        (["--budget-s", "nan"], "--budget-s: nan"),
        (["--skip-done", "nothing/there"], "No such file"),
        (["--skip-done", "{not json}"], "is not what a lease writes"),
        (["--skip-done", "[]"], "not what a lease writes"),
        (["--skip-done", '{"stages": {"a": {"rows": [{}]}}}'], "is not what a lease writes"),
        (["--out", "{}"], "exists"),
    ],
)
def test_wrong_arguments_are_told(
    tmp_path: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Contents stand for a file that has them."""
    name, value = arguments
    if value[0] in "{[":
        (tmp_path / "file").write_text(value)
        value = str(tmp_path / "file")
    with pytest.raises(SystemExit) as ended:
        lease.main([name, value])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
