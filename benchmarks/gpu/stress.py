"""Prefill kernels launched again and again on poisoned memory: every launch must give the same
bits, and right ones.

Reports of wrong code for Hopper's tensor cores are of products that are wrong now and then, or from
some number of rows on: one comparison would not find them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.cost import Shape
from benchmarks.gpu.errors import exact_lora, relative_error
from benchmarks.gpu.inputs import attention_inputs, lora_inputs
from benchmarks.gpu.places import places
from lora_runtime.kernels import PlannedKernels
from lora_runtime.kernels.attention import paged_attention_reference

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 8e-3, torch.float16: 2e-3}
"""Relative root-mean-square from float64, of all and of each row: several times what the dtype's
rounding makes. In the widest row here a tile of 64 outputs without its update makes several times
that."""
_OF_A_ROW = 1.5
"""A row of few values is off by more than all of them."""


@dataclass(frozen=True)
class Sizes:
    """What is gone through: rows of a step, ranks, launches of each."""

    rows: Sequence[int]
    ranks: Sequence[int]
    launches: int
    behind: int
    """Positions before a chunk, in the second of two attention cases."""


FULL = Sizes((65, 128, 192, 474, 2048), (8, 16, 33, 64, 128), 200, 1024)
TINY = Sizes((5, 33), (3, 8), 2, 7)


def lora_cases(
    kernels: PlannedKernels, shape: Shape, sizes: Sizes, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """(name, what runs it) of shrink and expand together, at three places of a layer."""
    for place in places(shape):
        for rows in sizes.rows:
            for rank in sizes.ranks:
                yield (
                    f"lora {place.name} {rows} rows rank {rank}",
                    partial(
                        _lora,
                        kernels,
                        place.inputs,
                        place.outs,
                        rows,
                        rank,
                        sizes.launches,
                        dtype,
                        device,
                    ),
                )


def attention_cases(
    kernels: PlannedKernels, shape: Shape, sizes: Sizes, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """(name, what runs it) of chunks, from the first position on and behind others, whole and
    windowed."""
    for rows in sizes.rows:
        for before in (0, sizes.behind):
            for window in (None, rows // 2 + 1):
                yield (
                    f"attention {rows} rows behind {before}{' windowed' if window else ''}",
                    partial(
                        _attention,
                        kernels,
                        shape,
                        rows,
                        before,
                        window,
                        sizes.launches,
                        dtype,
                        device,
                    ),
                )


def _lora(
    kernels: PlannedKernels,
    inputs: int,
    outs: Sequence[int],
    rows: int,
    rank: int,
    launches: int,
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, Any]:
    """Three adapters: one with a part of a tile, one with most rows, one with a few."""
    split = [rows // 3, rows - rows // 3 - 2, 2]
    given = lora_inputs(inputs, list(outs), split, [rank] * 3, layers=1, dtype=dtype, device=device)

    def launch() -> torch.Tensor:
        y = given.y.clone()
        given.plan.hidden.fill_(torch.nan)
        kernels.update_group(y, given.x, given.groups[0], given.plan, given.table)
        return y

    return _repeat(launch, exact_lora(given), launches, dtype)


def _attention(
    kernels: PlannedKernels,
    shape: Shape,
    rows: int,
    before: int,
    window: int | None,
    launches: int,
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, Any]:
    given = attention_inputs(
        shape, [rows, 1], [before + rows, 3], layers=1, dtype=dtype, device=device
    )
    (k, v), how = given.caches[0], {"scaling": given.scaling, "window": window}

    def launch() -> torch.Tensor:
        torch.full_like(given.q, torch.nan)  # which the result's memory was, for a moment
        return kernels.attention(given.q, k, v, given.plan, **how)

    exact = paged_attention_reference(given.q.double(), k.double(), v.double(), given.plan, **how)
    return _repeat(launch, exact, launches, dtype)


def _repeat(
    launch: Callable[[], torch.Tensor], exact: torch.Tensor, launches: int, dtype: torch.dtype
) -> dict[str, Any]:
    """`different`: launches whose bits are not the first one's. Counted on the device: the host
    waits once."""
    first = launch()
    different = torch.zeros((), dtype=torch.int32, device=first.device)
    for _ in range(launches - 1):
        different += (launch() != first).any()
    error, finite = relative_error(first, exact), bool(first.isfinite().all())
    worst, count = worst_row(first, exact), int(different)
    return {
        "error": error,
        "worst_row": worst,
        "launches": launches,
        "different": count,
        "finite": finite,
        "good": finite
        and not count
        and error <= TOLERANCE[dtype]
        and worst <= _OF_A_ROW * TOLERANCE[dtype],
    }


def worst_row(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest relative root-mean-square error of a row: one wrong tile is nothing among
    thousands of rows."""
    rows, wanted = found.double().flatten(1), exact.flatten(1)
    errors = (rows - wanted).square().mean(1).sqrt() / wanted.square().mean(1).sqrt()
    worst = errors.max()
    return float(worst) if worst.isfinite() else float("inf")
