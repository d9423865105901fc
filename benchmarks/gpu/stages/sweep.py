"""Tile sizes of the LoRA kernels and splits of attention: each against the default, and the best of
each place."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.gpu.attempts import attempt
from benchmarks.gpu.cost import LLAMA_8B, TINY, Cost, Shape
from benchmarks.gpu.places import Place, drawn, places
from benchmarks.gpu.session.context import Context, Row
from benchmarks.gpu.sweeping import lora
from benchmarks.gpu.sweeping.ahead import Kernel, compile_ahead
from benchmarks.gpu.sweeping.attention import AttentionKernel, AttentionSweep
from benchmarks.gpu.sweeping.tiles import DEFAULT, EXPAND, SHRINK, Tiles
from benchmarks.gpu.timing import beside_floor
from lora_runtime.kernels.triton import attention_tiles

FULL_ROWS = (
    lora.Rows("32", (1,) * 32, 16, decode=True),
    lora.Rows("128", (4,) * 32, 16, decode=True),
    lora.Rows("1x2048", (2048,), 16, decode=False),
)
TINY_ROWS = (lora.Rows("3", (2, 1), 4, decode=True), lora.Rows("1x18", (18,), 4, decode=False))
FULL_ATTENTION, TINY_ATTENTION = ((1, 1024), (32, 1024)), ((2, 70),)
"""(rows, context)"""
FULL_SPLITS, TINY_SPLITS = (64, 128, 256), (16, 32, 64)
"""Keys; each a multiple of a tile's."""
COMPILING = 0.35
"""Of the stage's time, at most, for compiling ahead."""


def run(context: Context) -> None:
    shape = LLAMA_8B if context.real else TINY
    if context.real:  # before anything here touches the GPU
        with attempt(context, "compiled ahead", may_fail=True):
            _compile(context, shape)
    sweep = _Sweep(context)
    with torch.inference_mode():
        for rows, place in _cases(context, shape):
            sweep.run_lora(place, rows)
        for count, length in FULL_ATTENTION if context.real else TINY_ATTENTION:
            sweep.run_attention(shape, count, length)


def _cases(context: Context, shape: Shape) -> list[tuple[lora.Rows, Place]]:
    """Without a GPU each step's kind at one place: an interpreter is slow."""
    if context.real:
        return [(rows, place) for rows in FULL_ROWS for place in places(shape)]
    return list(zip(TINY_ROWS, (places(shape)[-1], places(shape)[0]), strict=True))


def _compile(context: Context, shape: Shape) -> None:
    """What no earlier lease has measured, at the places and splits."""
    machine = next(row for row in context.found["environment"] if row["name"] == "machine")
    major, minor = machine["capability"].split(".")
    kernels: list[Kernel] = [AttentionKernel(shape, keys, context.dtype) for keys in FULL_SPLITS]
    for place in places(shape):
        kernels += lora.kernels_of(place, FULL_ROWS, context.dtype)
    wanted = [kernel for kernel in kernels if not context.has(kernel.name)]
    if wanted:
        found = compile_ahead(
            wanted, 10 * int(major) + int(minor), COMPILING * context.seconds_left()
        )
        context.emit("compiled ahead", **found)


class _Sweep:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._us = {
            row["name"]: row["us"] for row in context.found.get(context.stage, ()) if "us" in row
        }
        """By row, those of an earlier lease too."""

    def run_lora(self, place: Place, rows: lora.Rows) -> None:
        labels = {
            part: {
                f"{part} {place.name} {rows.name}: {tiles.name}": tiles
                for tiles in rows.variants[part]
            }
            for part in (EXPAND, SHRINK)
        }
        if all(self._context.has(label) for names in labels.values() for label in names):
            return
        with attempt(self._context, f"{place.name} {rows.name}", may_fail=True):
            self._lora(place, rows, labels)

    def _lora(self, place: Place, rows: lora.Rows, labels: dict[str, dict[str, Tiles]]) -> None:
        device, repeats = self._context.device, self._context.repeats
        make = drawn(device, self._context.dtype)
        given = lora.sweep_of(
            place, rows, make, self._context.dtype.itemsize, small=not self._context.real
        )
        default, exact = given.result(DEFAULT), given.exact()
        right = lora.compare_exactly(default, exact)["good"]

        def check(tiles: Tiles) -> Row:
            found = default if tiles == DEFAULT else given.result(tiles)
            return (
                lora.compare_exactly(found, exact)
                if tiles == DEFAULT or not right
                else lora.compare(found, default)
            )

        for part, names in labels.items():
            for label, tiles in names.items():
                self._try(
                    label,
                    partial(check, tiles),
                    partial(given.seconds, part, tiles, device, repeats),
                    given.cost(part),
                )
            self._best(f"best {part} {place.name} {rows.name}", list(names))

    def run_attention(self, shape: Shape, count: int, length: int) -> None:
        default, others = (
            attention_tiles.MIN_SPLIT,
            FULL_SPLITS if self._context.real else TINY_SPLITS,
        )
        title = f"attention {count} over {length}"
        labels = {
            f"{title}: splits of {keys}": keys
            for keys in (default, *(n for n in others if n != default))
        }
        if all(self._context.has(label) for label in labels):
            return
        with attempt(self._context, title, may_fail=True):
            device, repeats = self._context.device, self._context.repeats
            given = AttentionSweep(shape, count, length, self._context.dtype, device)
            exact = given.exact()

            def check(keys: int) -> Row:
                return lora.compare_exactly(given.result(keys), exact)

            for label, keys in labels.items():
                self._try(
                    label,
                    partial(check, keys),
                    partial(given.seconds, keys, device, repeats),
                    given.cost,
                )
            self._best(f"best {title}", list(labels))

    def _try(
        self, label: str, check: Callable[[], Row], seconds: Callable[[], float], cost: Cost
    ) -> None:
        """Checked; timed if it is right."""
        if self._context.has(label):
            return
        with attempt(self._context, label, may_fail=True):
            row = check()
            if row["good"]:
                row |= beside_floor(seconds(), cost, self._context.ceilings())
                self._us[label] = row["us"]
            self._context.emit(label, **row)

    def _best(self, title: str, labels: list[str]) -> None:
        """`gain`: of the default, which is the first label, over the fastest."""
        us = {label: self._us[label] for label in labels if label in self._us}
        if labels[0] in us:
            fastest = min(us, key=us.__getitem__)
            self._context.emit(
                title,
                variant=fastest.partition(": ")[2],
                us=us[fastest],
                default_us=us[labels[0]],
                gain=us[labels[0]] / us[fastest],
            )
