"""When calls of a load are due, whom they name, and what they ask."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path
from statistics import mean, pstdev

import pytest

from server.bench.draws.arrivals import Arrivals, arrival_times
from server.bench.draws.mix import Mix
from server.bench.draws.popularity import Popularity, picks, read_weights
from server.bench.draws.prompts import Prompt, read_prompts

COUNT = 20_000


@pytest.mark.parametrize(
    ("kind", "cv", "expected"),
    [(Arrivals.CONSTANT, 4, 0), (Arrivals.POISSON, 4, 1), (Arrivals.GAMMA, 3, 3)],
)
def test_arrivals_have_the_rate_and_the_spread(kind: Arrivals, cv: float, expected: float) -> None:
    times = list(islice(arrival_times(kind, 50, cv, random.Random(1)), COUNT))
    gaps = [b - a for a, b in pairwise(times)]
    assert times[0] == 0
    assert mean(gaps) == pytest.approx(1 / 50, rel=0.1)
    assert pstdev(gaps) / mean(gaps) == pytest.approx(expected, rel=0.1, abs=1e-9)


def test_a_seed_gives_the_same_draws() -> None:
    mix = Mix(["a", "b", "c"], [Prompt("x")])

    def drawn(seed: str) -> list[str]:
        return list(islice(mix.work(seed).adapters, 50))

    assert drawn("1") == drawn("1")
    assert drawn("1") != drawn("2")


@pytest.mark.parametrize(
    ("kind", "exponent", "expected"),
    [
        (Popularity.UNIFORM, 1, (1 / 3, 1 / 3, 1 / 3)),
        (Popularity.ZIPF, 1, (6 / 11, 3 / 11, 2 / 11)),
        (Popularity.ZIPF, 2, (36 / 49, 9 / 49, 4 / 49)),
        (Popularity.ZIPF, 1e308, (1, 0, 0)),
    ],
)
def test_popularity_has_its_shares(
    kind: Popularity, exponent: float, expected: tuple[float, ...]
) -> None:
    counts = Counter(islice(picks(kind, "abc", exponent, random.Random(1)), COUNT))
    assert [counts[name] / COUNT for name in "abc"] == pytest.approx(expected, abs=0.02)


def test_round_robin_names_one_after_the_other() -> None:
    drawn = picks(Popularity.ROUND_ROBIN, ["a", "", "c"], 1, random.Random(1))
    assert list(islice(drawn, 5)) == ["a", "", "c", "a", ""]


def test_weights_of_a_file_are_the_shares(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_text("# who is asked how often\na 3\n\nbase 1  # without an adapter\nb 0\n")
    weights = read_weights(file)
    assert weights == {"a": 3, "": 1, "b": 0}
    mix = Mix(list(weights), [Prompt("x")], weights=list(weights.values()))
    counts = Counter(islice(mix.work("1").adapters, COUNT))
    assert counts["a"] / COUNT == pytest.approx(0.75, abs=0.02)
    assert "b" not in counts


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a 1\na 2", "line 2 names 'a' again"),
        ("a", "line 1 must be an id and a weight"),
        ("a b", "line 1 must be an id and a weight"),
        ("a -1", "from 0 on"),
        ("a inf", "from 0 on"),
        ("a nan", "from 0 on"),
        ("a 0", "no weight over 0"),
        ("", "no weight over 0"),
    ],
    ids=["twice", "no weight", "no number", "negative", "infinite", "nan", "zeros", "empty"],
)
def test_weights_that_say_nothing_are_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "weights").write_text(text)
    with pytest.raises(ValueError, match=why):
        read_weights(tmp_path / "weights")


def test_prompts_of_files(tmp_path: Path) -> None:
    lines, rows = tmp_path / "prompts.txt", tmp_path / "prompts.jsonl"
    lines.write_text("one\n\ntwo {}\n")
    assert read_prompts(lines) == [Prompt("one"), Prompt("two {}")]
    turn = '{"role": "user", "content": "hi"}'
    rows.write_text(f'{{"prompt": "one"}}\n{{"messages": [{turn}]}}\n')
    hi = ({"role": "user", "content": "hi"},)
    assert read_prompts(rows) == [Prompt("one"), Prompt(messages=hi)]
    assert Prompt("hi").as_chat() == Prompt(messages=hi)
    assert Prompt(messages=hi).as_chat() == Prompt(messages=hi)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no prompt"),
        ("hi", "line 1 is no JSON"),
        ('{"prompt": "\\ud800"}', "line 1 is no JSON in UTF-8"),
        ("[" * 100_000, "line 1 is no JSON"),
        ("[]", "line 1 must be"),
        ('{"prompt": 1}', "line 1 must be"),
        ('{"prompt": "a", "n": 2}', "line 1 must be"),
        ('{"messages": []}', "line 1 must be"),
        ('{"prompt": "a"}\n{"messages": ["hi"]}', "line 2: a message has"),
        ('{"messages": [{"role": "user", "content": "a", "name": "b"}]}', "a message has"),
    ],
    ids=["empty", "text", "half", "deep", "list", "number", "more", "no turn", "a text", "a name"],
)
def test_rows_that_are_no_prompts_are_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "prompts.jsonl").write_text(text)
    with pytest.raises(ValueError, match=why):
        read_prompts(tmp_path / "prompts.jsonl")
