"""The rows that a step gets, as a function of seed and step alone: a resumed run needs no state of
it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from .encoding import Example

IGNORED = -100


class DataOrder:
    """Every epoch is a new permutation of all rows, cut into groups of `size`; the last one may be
    smaller."""

    def __init__(self, count: int, size: int, seed: int) -> None:
        self._count, self._size, self._seed = count, size, seed
        self.steps_per_epoch = -(-count // size)
        self._epoch, self._order = -1, list[int]()

    def group(self, step: int) -> list[int]:
        """Indices of the rows of a step, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, shuffled(self._count, f"{self._seed}/{epoch}")
        return self._order[place * self._size : (place + 1) * self._size]


def shuffled(count: int, seed: str) -> list[int]:
    """The numbers below `count` in an order that the seed decides, on every machine and version."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


def split(count: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices to train on and to hold out: at least one of two rows is held out unless `fraction`
    is 0.

    Both keep the file's order. Nothing is held out of a single row.
    """
    held = min(max(int(count * fraction), 1), count - 1) if fraction else 0
    chosen = set(shuffled(count, f"{seed}/split")[:held])
    return [i for i in range(count) if i not in chosen], sorted(chosen)


def collate(examples: Sequence[Example], device: torch.device) -> dict[str, torch.Tensor]:
    """Right-padded `input_ids`, `attention_mask` and `labels`, each (rows, width) int64.

    The padding's id is 0 whatever the tokenizer says: the mask and the labels leave it out.
    """
    width = max(len(e.ids) for e in examples)

    def padded(rows: list[list[int]], value: int) -> torch.Tensor:
        return torch.tensor([row + [value] * (width - len(row)) for row in rows], device=device)

    return {
        "input_ids": padded([list(e.ids) for e in examples], 0),
        "attention_mask": padded([[1] * len(e.ids) for e in examples], 0),
        "labels": padded([[IGNORED] * e.start + list(e.ids[e.start :]) for e in examples], IGNORED),
    }
