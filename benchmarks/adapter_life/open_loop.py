"""Requests that arrive by themselves: latency and throughput of loramux's engine with more adapters
than slots.

    python -m benchmarks.adapter_life.open_loop            # Poisson and Gamma (cv 4) arrivals, 8 to 1,000 adapters
    python -m benchmarks.adapter_life.open_loop --closed   # 32 clients that wait: 1,000 adapters against 32

All adapters are registered before anything is measured; the engine brings them into its slots as
requests name them. That time is part of the request's time to first token. `--host-bytes 0` lets
adapters outside of slots be on disk only.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.common.paths import MODEL
from benchmarks.common.workloads import Workload, adapter_dir, choose, prompt
from lora_runtime import (
    AdapterInfo,
    Engine,
    EngineConfig,
    EngineObserver,
    Request,
    RequestRecord,
    SamplingParams,
    StepStats,
)

GAMMA_CV = 4
SLOTS = 32


@dataclass(frozen=True)
class Arrival:
    """One request: seconds from the start, and its adapter's number."""

    at_s: float
    adapter: int


@dataclass
class Outcome:
    """What a run has measured. Times are seconds."""

    wall_s: float = 0.0
    tokens: int = 0
    ttft_s: list[float] = field(default_factory=list)
    """From the arrival, loading included, to the first token."""
    itl_s: list[float] = field(default_factory=list)
    misses: int = 0
    """Requests whose adapter was in no slot when they could have run."""
    wait_s: list[float] = field(default_factory=list)
    """How long those waited for it."""
    load_s: list[float] = field(default_factory=list)


def arrival_times(kind: str, rate: float, count: int, seed: int = 0) -> Iterator[float]:
    """Times of `count` arrivals, `rate` a second on average; gamma comes in bursts."""
    rng, now = random.Random(seed), 0.0
    shape = (
        1.0 if kind == "poisson" else 1 / GAMMA_CV**2
    )  # a gamma distribution's cv is 1 / sqrt(shape)
    for _ in range(count):
        now += rng.gammavariate(shape, 1 / (rate * shape))
        yield now


class Load(EngineObserver):
    """Sends requests to one engine and collects what came of them."""

    def __init__(self, engine: Engine, workload: Workload) -> None:
        self._engine = engine
        self._workload = workload
        self._sampling = SamplingParams(max_new_tokens=workload.output_len, ignore_eos=True)
        self._late_s: dict[str, float] = {}
        """By request id, from arrival to submission."""
        self._lock = threading.Lock()
        self._done = threading.Condition(self._lock)
        self._outcome = Outcome()
        engine.add_observer(self)

    def on_step(self, stats: StepStats) -> None:
        with self._lock:
            self._outcome.itl_s += [gap for name, gap in stats.token_gaps if name in self._late_s]

    def on_request_finished(self, record: RequestRecord) -> None:
        if record.request_id not in self._late_s:
            return  # it warmed an adapter up
        with self._done:
            self._outcome.ttft_s.append(self._late_s[record.request_id] + (record.ttft_s or 0.0))
            self._outcome.tokens += record.completion_tokens
            if record.adapter_wait_s:
                self._outcome.misses += 1
                self._outcome.wait_s.append(record.adapter_wait_s)
            self._done.notify_all()

    def on_adapter_loaded(self, info: AdapterInfo, seconds: float) -> None:
        with self._done:
            self._outcome.load_s.append(seconds)

    def open(self, arrivals: Iterable[Arrival]) -> Outcome:
        """Submit each request when it arrives, whether or not earlier ones are done."""
        started, count = self._begin(), 0
        for i, arrival in enumerate(arrivals):
            time.sleep(max(0.0, started + arrival.at_s - time.perf_counter()))
            self._submit(i, arrival.adapter, started + arrival.at_s)
            count += 1
        return self._end(started, count)

    def closed(self, adapters: list[int], clients: int) -> Outcome:
        """`clients` threads, each with one request under way at a time."""
        started = self._begin()

        def ask(numbered: tuple[int, int]) -> None:
            i, adapter = numbered
            self._submit(i, adapter, time.perf_counter()).result()

        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(ask, enumerate(adapters)))
        return self._end(started, len(adapters))

    def register(self, adapters: Iterable[int]) -> None:
        """Make the adapters known to the engine before anything is measured."""
        for number in sorted(set(adapters)):
            name = self._workload.adapter_name(number)
            self._engine.load_adapter(adapter_dir(name, MODEL), name)

    def warm(self, adapters: Iterable[int]) -> None:
        """Bring the adapters into slots."""
        names = [self._workload.adapter_name(number) for number in dict.fromkeys(adapters)]
        for name in names:
            self._engine.generate(
                Request(token_ids=(1,), adapter_id=name, sampling=SamplingParams(max_new_tokens=1))
            )

    def _submit(self, index: int, adapter: int, arrived: float) -> Any:
        name = self._workload.adapter_name(adapter)
        request = Request(
            token_ids=tuple(prompt(MODEL, index, self._workload.prompt_len)),
            adapter_id=name,
            sampling=self._sampling,
            request_id=str(index),
        )
        self._late_s[str(index)] = time.perf_counter() - arrived
        return self._engine.submit(request)

    def _begin(self) -> float:
        self._outcome = Outcome()
        self._late_s = {}
        return time.perf_counter()

    def _end(self, started: float, count: int) -> Outcome:
        with self._done:
            self._done.wait_for(lambda: len(self._outcome.ttft_s) == count)
        outcome = self._outcome
        outcome.wall_s = time.perf_counter() - started
        return outcome


def summary(outcome: Outcome) -> dict[str, float]:
    result = {
        "tokens_per_s": outcome.tokens / outcome.wall_s,
        "misses": outcome.misses,
        "loads": len(outcome.load_s),
    }
    for name, values in (
        ("ttft", outcome.ttft_s),
        ("itl", outcome.itl_s),
        ("adapter_wait", outcome.wait_s),
        ("load", outcome.load_s),
    ):
        if len(values) > 1:
            percentiles = quantiles(values, n=100, method="inclusive")
            result |= {
                f"{name}_p50_ms": percentiles[49] * 1e3,
                f"{name}_p99_ms": percentiles[98] * 1e3,
            }
    return result


def main() -> None:
    args = _arguments()
    workload = Workload("open-loop", args.requests, args.prompt_len, args.output_len)
    config = EngineConfig(
        dtype="bfloat16",
        prefix_caching=False,
        max_adapters=SLOTS,
        max_waiting=2 * args.requests,  # an adapter may have half
        adapter_host_bytes=args.host_bytes,
    )
    with Engine(MODEL, config) as engine:
        load = Load(engine, workload)
        load.register(i for number in {*args.adapters, SLOTS} for i in _picks(args, number))
        _warm_up(load, args)
        report = run_closed(load, args) if args.closed else run_open(load, args)
    report["settings"] = {
        "slots": SLOTS,
        "requests": args.requests,
        "prompt_len": args.prompt_len,
        "output_len": args.output_len,
        "popularity": args.popularity,
        "host_bytes": args.host_bytes,
    }
    show(report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def run_closed(load: Load, args: argparse.Namespace) -> dict[str, Any]:
    """The most and the fewest adapters in turn, `--repeats` times; the medians' ratio."""
    few, many = SLOTS, max(args.adapters)
    rates: dict[int, list[dict[str, float]]] = {few: [], many: []}
    for repeat in range(args.repeats):
        for number in (few, many)[:: -1 if repeat % 2 else 1]:
            picks = _picks(args, number)
            load.warm(sorted(set(picks))[:SLOTS])
            rates[number].append(summary(load.closed(picks, SLOTS)))
    runs = [
        {"adapters": number, "clients": SLOTS}
        | sorted(found, key=lambda r: r["tokens_per_s"])[len(found) // 2]
        for number, found in rates.items()
    ]
    return {"runs": runs, "ratio": runs[1]["tokens_per_s"] / runs[0]["tokens_per_s"]}


def run_open(load: Load, args: argparse.Namespace) -> dict[str, Any]:
    """Every arrival process at every load with every number of adapters."""
    capacity = summary(load.closed(_picks(args, SLOTS), SLOTS))["tokens_per_s"] / args.output_len
    runs = []
    for adapters in args.adapters:
        for kind in args.arrivals:
            for share in args.load:
                rate = args.rate or share * capacity
                picks = _picks(args, adapters)
                load.warm(sorted(set(picks))[:SLOTS])
                times = arrival_times(kind, rate, args.requests)
                outcome = load.open([Arrival(t, a) for t, a in zip(times, picks, strict=True)])
                runs.append(
                    {"adapters": adapters, "arrivals": kind, "requests_per_s": rate}
                    | summary(outcome)
                )
                print(
                    f"{adapters} adapters, {kind}, {rate:.1f}/s: done", file=sys.stderr, flush=True
                )
    return {"runs": runs, "capacity_requests_per_s": capacity}


def _picks(args: argparse.Namespace, adapters: int) -> list[int]:
    """Each request's adapter, of numbers 0 (the most popular) to `adapters` - 1."""
    return [i or 0 for i in choose(args.popularity, args.requests, adapters)]


def _warm_up(load: Load, args: argparse.Namespace) -> None:
    load.closed(_picks(args, SLOTS)[:SLOTS], SLOTS)


def show(report: dict[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 130)
    settings = report["settings"]
    console.print(
        f"{settings['requests']} requests of {settings['prompt_len']} + {settings['output_len']} tokens, "
        f"{settings['popularity']} over the adapters, {SLOTS} slots. TTFT counts from the arrival: waiting for the "
        "adapter is in it. misses: requests whose adapter was in no slot; loads: adapters read from disk for them.",
        highlight=False,
    )
    columns = list(dict.fromkeys(key for run in report["runs"] for key in run))
    table = Table()
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")
    for run in report["runs"]:
        table.add_row(*(_cell(run.get(name)) for name in columns))
    console.print(table)
    if "ratio" in report:
        console.print(
            f"throughput, {report['runs'][1]['adapters']} adapters / {SLOTS}: {report['ratio']:.2f}"
        )


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.adapter_life.open_loop",
        description=(__doc__ or "").partition("\n\n")[0],
    )
    parser.add_argument(
        "--closed", action="store_true", help="32 clients that wait, instead of arrivals."
    )
    parser.add_argument(
        "--adapters",
        type=_numbers(int),
        default=[8, 32, 128, 1000],
        help="How many are registered.",
    )
    parser.add_argument("--arrivals", type=_numbers(str), default=["poisson", "gamma"])
    parser.add_argument(
        "--load",
        type=_numbers(float),
        default=[0.5, 0.8],
        help="Arrivals as shares of the measured capacity.",
    )
    parser.add_argument(
        "--rate", type=float, default=0, help="Arrivals a second, instead of --load."
    )
    parser.add_argument("--requests", type=int, default=256, help="Requests of one run.")
    parser.add_argument("--repeats", type=int, default=3, help="Of the closed form.")
    parser.add_argument("--prompt-len", type=int, default=64)
    parser.add_argument("--output-len", type=int, default=64)
    parser.add_argument("--popularity", default="zipf-1.5")
    parser.add_argument(
        "--host-bytes", type=int, default=2 << 30, help="Host memory for adapters outside of slots."
    )
    parser.add_argument("--json", type=Path, default=None, help="Also write the result there.")
    return parser.parse_args()


def _numbers(kind: type) -> Any:
    return lambda text: [kind(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
