"""Two small tasks, made here: about 12 tokens of prompt and 10 of completion, and no row of one
split in the other.

orders:   `seven pens at 4, three cups at 9 =`              → ` 28+27=55`
bookings: `table for four, Friday, half past seven, Rossi =` → ` 4 fri 19:30 Rossi`

The first is reading, two products and a sum; the second is reading and rewriting. Change VERSION
with anything that changes a row: results of another version are not used.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

VERSION = 1
TRAIN_ROWS, TEST_ROWS = 2000, 64
TASKS = ("orders", "bookings")
MIXED = "mixed"
"""Rows of both tasks in turn, as many in all as of one."""

_COUNTS = ("two", "three", "four", "five", "six", "seven", "eight", "nine")
_GOODS = (
    "pens",
    "cups",
    "books",
    "keys",
    "lamps",
    "hats",
    "shoes",
    "maps",
    "rings",
    "boxes",
    "bags",
    "chairs",
)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_HOURS = ("five", "six", "seven", "eight", "nine", "ten")
_MINUTES = {"quarter past": (0, 15), "half past": (0, 30), "quarter to": (-1, 45)}
_NAMES = (
    "Rossi",
    "Smith",
    "Garcia",
    "Meyer",
    "Novak",
    "Silva",
    "Brown",
    "Martin",
    "Khan",
    "Lopez",
    "Adams",
    "Costa",
)


@dataclass(frozen=True)
class Row:
    """One question and its only right answer."""

    prompt: str
    completion: str


def rows(task: str, split: str) -> list[Row]:
    """The `train` or `test` rows of a task, always the same. Raises KeyError for a task or split
    that there is not."""
    if task == MIXED:
        one, other = (rows(t, split) for t in TASKS)
        count = {"train": TRAIN_ROWS, "test": TEST_ROWS}[split] // 2
        return [row for pair in zip(one[:count], other[:count], strict=True) for row in pair]
    rng = random.Random(f"{VERSION}/{task}")
    made: dict[str, Row] = {}
    while len(made) < TRAIN_ROWS + TEST_ROWS:
        row = _MAKERS[task](rng)
        made.setdefault(row.prompt, row)
    ordered = list(made.values())
    return {"test": ordered[:TEST_ROWS], "train": ordered[TEST_ROWS:]}[split]


def write(directory: Path, count: int = TRAIN_ROWS) -> None:
    """TASK.jsonl, the first `count` training rows of every task, for `train()`."""
    directory.mkdir(parents=True, exist_ok=True)
    for task in (*TASKS, MIXED):
        lines = (
            json.dumps({"prompt": r.prompt, "completion": r.completion})
            for r in rows(task, "train")[:count]
        )
        (directory / f"{task}.jsonl").write_text("".join(f"{line}\n" for line in lines))


def _order(rng: random.Random) -> Row:
    goods = rng.sample(_GOODS, 2)
    counts, prices = ([rng.randint(2, 9) for _ in range(2)] for _ in range(2))
    items = (f"{_COUNTS[n - 2]} {g} at {p}" for n, g, p in zip(counts, goods, prices, strict=True))
    first, second = (n * p for n, p in zip(counts, prices, strict=True))
    return Row(f"{', '.join(items)} =", f" {first}+{second}={first + second}")


def _booking(rng: random.Random) -> Row:
    people, day, hour = rng.randint(2, 9), rng.choice(_DAYS), rng.randrange(len(_HOURS))
    words, (shift, minutes) = rng.choice(list(_MINUTES.items()))
    name = rng.choice(_NAMES)
    return Row(
        f"table for {_COUNTS[people - 2]}, {day}, {words} {_HOURS[hour]}, {name} =",
        f" {people} {day[:3].lower()} {17 + hour + shift}:{minutes} {name}",
    )


_MAKERS: dict[str, Callable[[random.Random], Row]] = {"orders": _order, "bookings": _booking}
