"""Every CPU kernel's achieved bandwidth or FLOP/s beside this machine's own ceilings, measured in
the same run.

    python -m benchmarks.cpu.kernels [--dtype bfloat16] [--repeats 9] [--json FILE]

The shapes are SmolLM2-135M's. Weights and caches are large enough to come from memory, as in a real
step; the kernels take turns in every repeat, so that a busy neighbour hurts all alike; medians are
shown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from lora_runtime.kernels.attention import AttentionPlan
from lora_runtime.kernels.cpu import library, ops, weights
from lora_runtime.kernels.cpu.build import host_target
from lora_runtime.kernels.cpu.memory import Arena
from lora_runtime.kernels.lora import LoraSegment

WORKING_SET = 128 << 20  # bytes that a case goes through, far beyond the caches
HEADS, KV_HEADS, DIM = 9, 3, 64


@dataclass(frozen=True)
class Case:
    """`run` once reads `num_bytes` from memory and does `flops` floating-point operations."""

    name: str
    run: Callable[[], object]
    num_bytes: float
    flops: float


@dataclass(frozen=True)
class Result:
    name: str
    gb_per_s: float
    bandwidth_share: float
    gflop_per_s: float
    flop_share: float

    @property
    def roof(self) -> float:
        """Share of the ceiling that limits this kernel."""
        return max(self.bandwidth_share, self.flop_share)


def ceilings(dtype: torch.dtype, threads: int) -> list[Case]:
    lib, per_round = library.load(), 12 * 16 * (4 // dtype.itemsize) * 2 * threads
    memory = torch.ones(256 << 20, dtype=torch.uint8)
    rounds = 4_000_000
    return [
        Case(
            "ceiling: memory reads",
            lambda: lib.lm_read_seconds(memory.data_ptr(), memory.numel(), threads),
            memory.numel(),
            0,
        ),
        Case(
            "ceiling: multiply-accumulate",
            lambda: lib.lm_peak_seconds(library.is_bf16(dtype), rounds, threads),
            0,
            rounds * per_round,
        ),
    ]


def linears(dtype: torch.dtype, int8: bool) -> Iterator[Case]:
    lib = library.load()
    for n, k in ((960, 576), (576, 576), (3072, 576), (576, 1536), (49152, 576)):
        size = n * k * (1 if int8 else dtype.itemsize)
        count = max(1, WORKING_SET // size)
        arena = Arena()
        weight = torch.randn(n, k).to(dtype)
        packed = [weights.pack_linear(lib, weight, None, int8, arena) for _ in range(count)]
        for rows in (1, 8, 32, 64, 512):
            if n > 10_000 and rows > 64:
                continue  # the lm_head runs for rows that sample only
            x, y = torch.randn(rows, k).to(dtype), torch.empty(rows, n)
            yield Case(
                f"{'int8 ' if int8 else ''}linear {k}->{n}, {rows} rows",
                lambda packed=packed, x=x, y=y: [ops.linear(x, p, y) for p in packed],
                count * size,
                count * 2.0 * rows * n * k,
            )


def torch_linear(dtype: torch.dtype) -> Case:
    """torch's own product at 256 rows, its weights in the cache: the rate that prefill is held
    against."""
    n, k, rows, count = 3072, 576, 256, 20
    weight, x = torch.randn(n, k).to(dtype), torch.randn(rows, k).to(dtype)
    return Case(
        f"torch linear {k}->{n}, {rows} rows",
        lambda: [torch.nn.functional.linear(x, weight) for _ in range(count)],
        0,
        count * 2.0 * rows * n * k,
    )


def loras(dtype: torch.dtype) -> Iterator[Case]:
    for rank, rows, adapters in (
        (16, 32, 32),
        (64, 32, 32),
        (16, 1, 1),
        (16, 512, 1),
        (16, 512, 8),
    ):
        n, k = 1536, 576
        size = rank * (n + k) * dtype.itemsize
        modules = max(1, WORKING_SET // (size * adapters))
        steps = []
        for _ in range(modules):
            arena = Arena()
            bounds = [rows * i // adapters for i in range(adapters + 1)]
            segments = [
                LoraSegment(
                    bounds[i],
                    bounds[i + 1],
                    torch.randn(rank, k).to(dtype),
                    torch.randn(n, rank).to(dtype),
                    1,
                )
                for i in range(adapters)
            ]
            steps.append(ops.prepare_lora(segments, arena))
        x, y = torch.randn(rows, k).to(dtype), torch.zeros(rows, n)
        yield Case(
            f"lora rank {rank}, {rows} rows, {adapters} adapters",
            lambda steps=steps, x=x, y=y: [ops.run_lora(y, x, s) for s, _ in steps],
            modules * adapters * size,
            modules * 2.0 * rows * rank * (n + k),
        )


def attentions(dtype: torch.dtype) -> Iterator[Case]:
    for sequences, new, context in (
        (32, 1, 128),
        (32, 1, 1024),
        (1, 1, 4096),
        (1, 512, 512),
        (4, 128, 1024),
    ):
        blocks = -(-context // 16)
        layers = max(1, WORKING_SET // (sequences * context * KV_HEADS * DIM * 2 * dtype.itemsize))
        slots = layers * sequences * blocks * 16
        keys = ops.tile_keys(torch.randn(slots, KV_HEADS, DIM).to(dtype))
        values = ops.tile_values(torch.randn(slots, KV_HEADS, DIM).to(dtype))
        tables = torch.randperm(layers * sequences * blocks).int().view(layers, sequences, blocks)
        start = torch.arange(sequences + 1, dtype=torch.int32) * new
        lengths = torch.full((sequences,), context, dtype=torch.int32)
        plans = [
            AttentionPlan(start[:0], start, lengths, table.contiguous(), 16) for table in tables
        ]
        q = torch.randn(sequences * new, HEADS, DIM).to(dtype)
        visible = sum(context - new + 1 + i for i in range(new)) * sequences
        yield Case(
            f"attention {sequences} x {new} queries over {context}",
            lambda plans=plans, q=q, keys=keys, values=values: [
                ops.attend_tiles(q, keys, values, KV_HEADS, p, scaling=0.1) for p in plans
            ],
            layers * sequences * context * KV_HEADS * DIM * 2 * dtype.itemsize,
            layers * 4.0 * visible * HEADS * DIM,
        )


def measure(cases: list[Case], repeats: int) -> dict[str, float]:
    """Median seconds by name; the first round warms up."""
    seconds: dict[str, list[float]] = {c.name: [] for c in cases}
    for _ in range(repeats + 1):
        for case in cases:
            started = time.perf_counter()
            case.run()
            seconds[case.name].append(time.perf_counter() - started)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def results(
    groups: list[list[Case]], dtype: torch.dtype, repeats: int
) -> tuple[list[Result], list[float]]:
    """Each group is measured together with the ceilings, which drift with the machine's other
    guests."""
    out, tops = [], []
    for group in groups:
        top = ceilings(dtype, torch.get_num_threads())
        seconds = measure([*top, *group], repeats)
        bandwidth, flops = (
            top[0].num_bytes / seconds[top[0].name],
            top[1].flops / seconds[top[1].name],
        )
        tops.append((bandwidth / 1e9, flops / 1e9))
        for case in group:
            t = seconds[case.name]
            out.append(
                Result(
                    case.name,
                    case.num_bytes / t / 1e9,
                    case.num_bytes / t / bandwidth,
                    case.flops / t / 1e9,
                    case.flops / t / flops,
                )
            )
    return out, [statistics.median(column) for column in zip(*tops, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu.kernels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the results there too")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    groups = [
        [*linears(dtype, False), torch_linear(dtype)],
        list(linears(dtype, True)),
        list(loras(dtype)),
        list(attentions(dtype)),
    ]
    found, (bandwidth, flops) = results(groups, dtype, options.repeats)
    print(
        f"{host_target()}, {torch.get_num_threads()} threads, {options.dtype}: "
        f"memory {bandwidth:.1f} GB/s, multiply-accumulate {flops:.0f} GFLOP/s"
    )
    print(f"{'kernel':44} {'GB/s':>7} {'of max':>7} {'GFLOP/s':>8} {'of max':>7} {'roof':>6}")
    for r in found:
        print(
            f"{r.name:44} {r.gb_per_s:7.1f} {r.bandwidth_share:7.0%} {r.gflop_per_s:8.0f} {r.flop_share:7.0%} "
            f"{r.roof:6.0%}"
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(r) for r in found], indent=1))


if __name__ == "__main__":
    main()
