"""benchmarks/lora: its measures against their definitions, its tasks, and every way through it on a
tiny base."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.lora import data
from benchmarks.lora.__main__ import RESULTS, ROOT, main
from benchmarks.lora.bottleneck import Bottleneck
from benchmarks.lora.features import norms
from benchmarks.lora.page import TABLES, filled
from benchmarks.lora.specs import FULL, QUICK
from benchmarks.lora.store import Store
from benchmarks.lora.subspace import directions_of_a, directions_of_update, phi, singular_values
from tests.support.models import save_base


def test_phi_is_the_papers_formula() -> None:
    one, other = (directions_of_a(torch.randn(k, 12, dtype=torch.float64)) for k in (3, 5))
    found = phi(one, other)
    assert found.shape == (3, 5)
    for i in range(1, 4):
        for j in range(1, 6):
            wanted = torch.linalg.matrix_norm(one[:i] @ other[:j].T) ** 2 / min(i, j)
            assert float(found[i - 1, j - 1]) == pytest.approx(float(wanted), rel=1e-5)


def test_phi_of_a_space_in_another_is_one_and_of_orthogonal_ones_zero() -> None:
    rows = torch.eye(8)
    assert phi(rows[[1, 0]], rows[:3])[1].tolist() == [1.0, 1.0, 1.0]
    assert phi(rows[:2], rows[2:4]).abs().max() == 0


def test_directions_of_the_update_are_those_of_the_whole_matrix() -> None:
    a, b = torch.randn(3, 10), torch.randn(7, 3)
    whole = torch.linalg.svd(b @ a)
    torch.testing.assert_close(singular_values(a, b), whole.S[:3])
    assert phi(directions_of_update(a, b), whole.Vh[:3]).diagonal().min() > 0.999


def test_a_steps_change_is_the_sum_of_its_three_parts() -> None:
    x = torch.randn(5, 6)
    a, b, a_before, b_before = (
        torch.randn(2, 6),
        torch.randn(4, 2),
        torch.randn(2, 6),
        torch.randn(4, 2),
    )
    base = nn.Linear(6, 4, bias=False)
    layer = SimpleNamespace(
        base_layer=base,
        scaling={"default": 2.0},
        lora_A={"default": SimpleNamespace(weight=a)},
        lora_B={"default": SimpleNamespace(weight=b)},
    )
    found = norms(layer, x, a_before, b_before)

    def length(matrix: torch.Tensor) -> float:
        return float((x @ matrix.T).norm(dim=-1).mean())

    wanted = {
        "z_a": a,
        "z_b": 2 * b @ a,
        "base": base.weight.detach(),
        "d1": 2 * b_before @ (a - a_before),
        "d2": 2 * (b - b_before) @ a_before,
        "d3": 2 * (b - b_before) @ (a - a_before),
    }
    assert found == pytest.approx(
        {name: length(matrix) for name, matrix in wanted.items()}, rel=1e-4
    )
    torch.testing.assert_close(
        2 * (b @ a - b_before @ a_before), wanted["d1"] + wanted["d2"] + wanted["d3"]
    )


def test_a_bottleneck_starts_as_the_identity_and_learns_both_halves() -> None:
    module: Any = Bottleneck(8, 3)  # whose parameters have gradients
    h = torch.randn(2, 4, 8)
    assert torch.equal(module(h), h)
    for _ in range(2):  # `down` has a gradient once `up` is not zero
        module.zero_grad()
        module(h).square().sum().backward()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter -= 0.1 * parameter.grad
    assert all(parameter.grad.abs().max() > 0 for parameter in module.parameters())


@pytest.mark.parametrize("task", data.TASKS)
def test_rows_are_the_same_every_time_and_held_out_ones_are_not_trained_on(task: str) -> None:
    train, test = data.rows(task, "train"), data.rows(task, "test")
    assert (len(train), len(test)) == (data.TRAIN_ROWS, data.TEST_ROWS)
    assert data.rows(task, "train") == train
    assert not {r.prompt for r in train} & {r.prompt for r in test}


def test_answers_of_orders_are_right() -> None:
    words = {
        "two": 2,
        "three": 3,
        "four": 4,
        "five": 5,
        "six": 6,
        "seven": 7,
        "eight": 8,
        "nine": 9,
    }
    for row in data.rows("orders", "test"):
        told = re.fullmatch(r"(\w+) \w+ at (\d), (\w+) \w+ at (\d) =", row.prompt)
        assert told is not None
        n, p, m, q = told.groups()
        one, other = words[n] * int(p), words[m] * int(q)
        assert row.completion == f" {one}+{other}={one + other}"


def test_the_mixed_task_holds_nothing_out_that_it_trains_on() -> None:
    train, test = data.rows(data.MIXED, "train"), data.rows(data.MIXED, "test")
    assert len(train) == data.TRAIN_ROWS
    assert not {r.prompt for r in train} & {
        r.prompt for task in data.TASKS for r in data.rows(task, "test")
    }
    assert {r.prompt for r in test} <= {
        r.prompt for task in data.TASKS for r in data.rows(task, "test")
    }


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("experiments")
    save_base(directory / "base")
    main(_arguments(directory))
    return directory


def _arguments(directory: Path, *more: str) -> list[str]:
    paths = [f"--{name}={directory / name}" for name in ("base", "results", "docs", "work")]
    return ["--quick", "--jobs=1", "--dtype=float32", *paths, *more]


@pytest.mark.slow
def test_the_quick_mode_runs_every_experiment_and_fills_every_table(quick: Path) -> None:
    store = Store(quick / "results")
    runs = store.runs()
    assert len(runs) == 10
    assert all("test_loss" in run and len(run["losses"]) in (2, 4) for run in runs.values())
    page = (quick / "docs" / "lora.md").read_text()
    assert page.count("<!-- end -->") == len(TABLES)
    for name in TABLES:
        table = page.partition(f"<!-- table {name} -->\n")[2].partition("<!-- end -->")[0]
        assert table.count("\n| ") >= 2, name
    for picture in ("init", "budget", "rank", "combine"):
        assert (quick / "docs" / f"lora-{picture}.png").stat().st_size > 5_000


@pytest.mark.slow
def test_served_answers_agree_with_the_merged_weights(quick: Path) -> None:
    scores = Store(quick / "results").load("compositions")
    assert {"base", "both, weights 0.5", "first and second"} <= scores.keys()
    for found in scores.values():
        for task in data.TASKS:
            assert found[task]["served"] == found[task]["exact"]


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.lora.plots.draw_all", lambda plan, store, docs: None)


@pytest.mark.slow
@pytest.mark.usefixtures("no_plots")
def test_what_is_there_is_not_run_again(quick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = quick / "results" / "runs.json"
    before = results.read_bytes()
    main(_arguments(quick))
    assert results.read_bytes() == before
    assert "to do" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("no_plots")
def test_a_run_with_other_settings_is_done_again(
    quick: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = quick / "results" / "runs.json"
    kept = json.loads(results.read_text())
    kept["runs"]["rank 1 s0"]["settings"]["rate"] = 0.5
    kept["runs"]["rank 1 s0"]["test_loss"] = -1.0
    results.write_text(json.dumps(kept))
    main(_arguments(quick))
    assert "1 runs to do" in capsys.readouterr().err
    assert Store(quick / "results").runs()["rank 1 s0"]["test_loss"] > 0


def test_the_quick_mode_does_not_touch_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--quick"])
    assert "--quick needs" in capsys.readouterr().err


def test_the_page_shows_the_results_that_lie_beside_it() -> None:
    page = (ROOT / "docs" / "results" / "lora.md").read_text()
    assert filled(page, FULL, Store(RESULTS)) == page


def test_no_run_is_named_twice() -> None:
    for plan in (FULL, QUICK):
        keys = [spec.key for spec in plan.specs(budget=1000, width=4)]
        assert len(keys) == len(set(keys))
