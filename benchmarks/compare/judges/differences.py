"""What tools say of the same loads, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

from .loads import Said

OURS = "loramux bench"
_HELD = ("rps", "mean", "p50", "p90", "p99")
"""What must not differ from ghz's."""
_TOKENS = ("ttft_p50", "ttft_p99", "itl_mean", "itl_p99")
"""What only k6 has beside the bench."""
_MOST = 0.03
_K6_CLOCK_MS = 1
_WORDS = {"rps": "calls/s", "itl_mean": "ITL mean", "cpu_s": "CPU s"}


def summary(said: dict[str, list[Said]]) -> dict[str, Any]:
    """Medians over the rounds; differences are those of one round, and then their median."""
    return {
        "said": {name: _medians(ran) for name, ran in said.items()},
        "noise": {name: _noise(ran) for name, ran in said.items()},
        "from_ghz": _from(said["ghz"], said[OURS], _HELD),
        "from_k6": _from(said["k6"], said[OURS], _HELD + _TOKENS),
        "rounds": {name: [one.numbers() for one in ran] for name, ran in said.items()},
    }


def _medians(ran: list[Said]) -> dict[str, float]:
    return {name: median(one.numbers()[name] for one in ran) for name in _known(ran)}


def _noise(ran: list[Said]) -> dict[str, float]:
    """Largest minus smallest of a tool's own rounds, as a share of the median."""
    found = {}
    for name in _known(ran):
        values = [one.numbers()[name] for one in ran]
        found[name] = (max(values) - min(values)) / median(values)
    return found


def _known(ran: list[Said]) -> list[str]:
    return [name for name, value in ran[0].numbers().items() if value is not None]


def _from(judge: list[Said], ours: list[Said], names: tuple[str, ...]) -> dict[str, float]:
    """How far `ours` is from the judge, as a share of what the judge says."""
    pairs = [(a.numbers(), b.numbers()) for a, b in zip(judge, ours, strict=True)]
    return {
        name: median(b[name] / a[name] - 1 for a, b in pairs)
        for name in names
        if pairs[0][0][name] is not None
    }


def apart(result: dict[str, Any]) -> list[str]:
    """Say where the bench is not near ghz, or its tokens' times not within k6's own noise."""
    return [
        f"{load}: {_WORDS.get(name, name)} is {share:+.1%} from {judge}'s"
        for load, one in result.items()
        for judge, name, share, most in _judged(one)
        if abs(share) > most
    ]


def _judged(one: dict[str, Any]) -> Iterator[tuple[str, str, float, float]]:
    """Give what is judged: by whom, which number, how far it is, and how far it may be."""
    for name in _HELD:
        yield "ghz", name, one["from_ghz"][name], _MOST
    for name in (name for name in _TOKENS if name in one["from_k6"]):
        noise, tick = one["noise"]["k6"][name], _K6_CLOCK_MS / one["said"]["k6"][name]
        yield "k6", name, one["from_k6"][name], max(_MOST, noise, tick)


def show(load: str, one: dict[str, Any]) -> None:
    """Print a load's table."""
    names = list(one["said"]["k6"])
    print(f"\n{load}\n{'':28}" + "".join(f"{_WORDS.get(name, name):>10}" for name in names))
    for tool, said in one["said"].items():
        print(_row(tool, [said.get(name) for name in names], "{:.2f}"))
    for tool, noise in one["noise"].items():
        print(_row(f"  {tool}: its rounds", [noise.get(name) for name in names], "{:.1%}"))
    for words, key in (("bench from ghz", "from_ghz"), ("bench from k6", "from_k6")):
        print(_row(f"  {words}", [one[key].get(name) for name in names], "{:+.1%}"))


def _row(head: str, cells: list[float | None], form: str) -> str:
    return f"{head:28}" + "".join(
        f"{'' if cell is None else form.format(cell):>10}" for cell in cells
    )
