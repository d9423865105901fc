"""Single kernels: seconds, and the shares of the machine's bandwidth and rate that they reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional as F

from benchmarks.gpu.cost import Cost, Shape, attention_cost, linear_cost, lora_cost
from benchmarks.gpu.inputs import attention_inputs, lora_inputs
from benchmarks.gpu.machine import Ceilings, seconds
from benchmarks.gpu.places import shared_out
from lora_runtime.kernels import PlannedKernels

WORKING_SET = 512 << 20
"""Bytes that a case goes through, far beyond a GPU's caches."""


@dataclass(frozen=True)
class Case:
    """`run` does `cost` `times` times, on other memory each time."""

    name: str
    run: Callable[[], object]
    cost: Cost
    times: int


@dataclass(frozen=True)
class Sizes:
    """How much of a step the cases have: tiny where they only have to run."""

    decode: tuple[tuple[int, int, int], ...]
    """(rows, adapters, rank)"""
    prefill: tuple[tuple[int, int, int], ...]
    """(prompts, new tokens of each, rank)"""
    contexts: tuple[tuple[int, int, int], ...]
    """(sequences, new tokens of each, context)"""
    working_set: int


FULL = Sizes(
    decode=(
        (1, 1, 16),
        (8, 8, 16),
        (32, 1, 16),
        (32, 32, 8),
        (32, 32, 16),
        (32, 32, 64),
        (32, 32, 128),
        (128, 128, 16),
    ),
    prefill=((1, 2048, 16), (1, 2048, 64), (32, 64, 16)),
    contexts=(
        (1, 1, 1024),
        (1, 1, 8192),
        (32, 1, 1024),
        (128, 1, 1024),
        (1, 2048, 2048),
        (4, 512, 4096),
    ),
    working_set=WORKING_SET,
)
TINY = Sizes(
    decode=((1, 1, 4), (3, 2, 5)),
    prefill=((2, 9, 4),),
    contexts=((2, 1, 20), (1, 6, 10)),
    working_set=1,
)


def cases(
    shape: Shape,
    sizes: Sizes,
    kernels: PlannedKernels,
    dtype: torch.dtype,
    device: torch.device,
    known: Callable[[str], bool],
) -> Iterator[Case]:
    """LoRA on q, k, v (fused) and on down_proj, attention, and the base's own products to compare
    with; but for the names that are `known`."""
    for name, make in _named(shape, sizes, kernels, dtype, device):
        if not known(name):
            yield make(name)


def _named(
    shape: Shape, sizes: Sizes, kernels: PlannedKernels, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[str, Callable[[str], Case]]]:
    p = shape.projections
    places = {
        "qkv": (p["q_proj"][0], [p[n][1] for n in ("q_proj", "k_proj", "v_proj")]),
        "down": (p["down_proj"][0], [p["down_proj"][1]]),
    }
    for label, (inputs, outs) in places.items():
        rows = sorted({n for n, _, _ in sizes.decode} | {n * t for n, t, _ in sizes.prefill})
        for n in rows:
            yield (
                f"base {label}, {n} rows",
                partial(
                    _linear,
                    rows=n,
                    inputs=inputs,
                    outputs=sum(outs),
                    sizes=sizes,
                    dtype=dtype,
                    device=device,
                ),
            )
        for n, adapters, rank in sizes.decode:
            counts = shared_out(n, adapters)
            yield (
                f"lora {label} decode, {n} rows, {adapters} x rank {rank}",
                partial(
                    _lora,
                    rows=counts,
                    ranks=[rank] * adapters,
                    inputs=inputs,
                    outs=outs,
                    sizes=sizes,
                    kernels=kernels,
                    dtype=dtype,
                    device=device,
                ),
            )
        for n, tokens, rank in sizes.prefill:
            yield (
                f"lora {label} prefill, {n} x {tokens} rows, rank {rank}",
                partial(
                    _lora,
                    rows=[tokens] * n,
                    ranks=[rank] * n,
                    inputs=inputs,
                    outs=outs,
                    sizes=sizes,
                    kernels=kernels,
                    dtype=dtype,
                    device=device,
                ),
            )
    for n, new, context in sizes.contexts:
        yield (
            f"attention {n} x {new} over {context}",
            partial(
                _attention,
                new=[new] * n,
                contexts=[context] * n,
                shape=shape,
                sizes=sizes,
                kernels=kernels,
                dtype=dtype,
                device=device,
            ),
        )


def _times(cost: Cost, sizes: Sizes) -> int:
    return int(min(32, max(1, -(-sizes.working_set // cost.num_bytes))))


def _linear(
    name: str,
    rows: int,
    inputs: int,
    outputs: int,
    sizes: Sizes,
    dtype: torch.dtype,
    device: torch.device,
) -> Case:
    cost = linear_cost(rows, inputs, outputs, dtype.itemsize)
    weights = [
        torch.randn(outputs, inputs, device=device, dtype=dtype) for _ in range(_times(cost, sizes))
    ]
    x = torch.randn(rows, inputs, device=device, dtype=dtype)
    return Case(name, lambda: [F.linear(x, w) for w in weights], cost, len(weights))


def _lora(
    name: str,
    rows: list[int],
    ranks: list[int],
    inputs: int,
    outs: list[int],
    sizes: Sizes,
    kernels: PlannedKernels,
    dtype: torch.dtype,
    device: torch.device,
) -> Case:
    cost, update = lora_cost(rows, ranks, inputs, outs, dtype.itemsize), kernels.update_group
    given = lora_inputs(
        inputs, outs, rows, ranks, layers=_times(cost, sizes), dtype=dtype, device=device
    )

    def run() -> None:
        for group in given.groups:
            update(given.y, given.x, group, given.plan, given.table)

    return Case(name, run, cost, len(given.groups))


def _attention(
    name: str,
    new: list[int],
    contexts: list[int],
    shape: Shape,
    sizes: Sizes,
    kernels: PlannedKernels,
    dtype: torch.dtype,
    device: torch.device,
) -> Case:
    cost = attention_cost(new, contexts, shape)
    given = attention_inputs(
        shape, new, contexts, layers=_times(cost, sizes), dtype=dtype, device=device
    )
    return Case(
        name,
        lambda: [
            kernels.attention(given.q, k, v, given.plan, scaling=given.scaling)
            for k, v in given.caches
        ],
        cost,
        len(given.caches),
    )


def measure(
    found: Iterator[Case], top: Ceilings, device: torch.device, repeats: int
) -> Iterator[dict[str, float | str]]:
    """A row per case; its inputs are freed before the next one's are made."""
    for case in found:
        taken = seconds(case.run, device, repeats) / case.times
        least = case.cost.seconds(top.bandwidth, top.rate)
        yield {
            "name": case.name,
            "us": taken * 1e6,
            "limit_us": least * 1e6,
            "of_limit": least / taken,
            "gb_per_s": case.cost.num_bytes / taken / 1e9,
            "tflop_per_s": case.cost.flops / taken / 1e12,
        }
        del case
