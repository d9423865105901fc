"""Requests that arrive by themselves: latency and throughput of loramux's engine with more adapters than slots.

    python benchmarks/open_loop.py                 # Poisson and Gamma (cv 4) arrivals, 8 to 1,000 adapters
    python benchmarks/open_loop.py --closed        # 32 clients that wait for their answers: 1,000 adapters against 32

The engine has a fixed number of adapter slots and refuses when they are full. So the adapters are kept by the
benchmark, as a client of the engine's API can do it: least recently used first, it unloads one and loads another
before it submits. That time is part of the request's time to first token.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

from rich.console import Console
from rich.table import Table
from workloads import MODEL, Workload, adapter_dir, choose, prompt

from lora_runtime import Engine, EngineConfig, EngineObserver, Request, RequestRecord, SamplingParams

GAMMA_CV = 4
SLOTS = 32
_SUBMITTERS = 64
"""Threads that load adapters and submit: a request whose adapter is not there does not hold up the next."""


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
    loads: int = 0
    load_s: list[float] = field(default_factory=list)


def arrival_times(kind: str, rate: float, count: int, seed: int = 0) -> Iterator[float]:
    """Times of `count` arrivals, `rate` a second on average; gamma comes in bursts."""
    rng, now = random.Random(seed), 0.0
    shape = 1.0 if kind == "poisson" else 1 / GAMMA_CV**2  # a gamma distribution's cv is 1 / sqrt(shape)
    for _ in range(count):
        now += rng.gammavariate(shape, 1 / (rate * shape))
        yield now


class AdapterCache:
    """Keeps the engine's slots filled with the adapters used last. Thread-safe."""

    def __init__(self, engine: Engine, slots: int) -> None:
        self._engine = engine
        self._slots = slots
        self._changed = threading.Condition()
        self._users: OrderedDict[str, int] = OrderedDict()
        """Requests under way by resident adapter, least recently used first."""
        self._moving: set[str] = set()
        """Adapters that are being loaded; each has a slot already."""
        self.load_s: list[float] = []

    def acquire(self, name: str) -> None:
        """Returns when the adapter is resident; it stays so until `release`."""
        with self._changed:
            self._changed.wait_for(lambda: name in self._users or (name not in self._moving and self._has_room()))
            if name in self._users:
                self._users[name] += 1
                self._users.move_to_end(name)
                return
            victim = self._take_victim()
            self._moving.add(name)
        started = time.perf_counter()
        if victim is not None:
            self._engine.unload_adapter(victim)
        self._engine.load_adapter(adapter_dir(name, MODEL), name)
        with self._changed:
            self.load_s.append(time.perf_counter() - started)
            self._moving.remove(name)
            self._users[name] = 1
            self._changed.notify_all()

    def release(self, name: str) -> None:
        with self._changed:
            self._users[name] -= 1
            self._changed.notify_all()

    def _is_full(self) -> bool:
        return len(self._users) + len(self._moving) >= self._slots

    def _has_room(self) -> bool:
        return not self._is_full() or 0 in self._users.values()

    def _take_victim(self) -> str | None:
        if not self._is_full():
            return None
        victim = next(name for name, users in self._users.items() if users == 0)
        del self._users[victim]
        return victim


class Load(EngineObserver):
    """Sends requests to one engine and collects what came of them."""

    def __init__(self, engine: Engine, workload: Workload) -> None:
        self._engine = engine
        self._workload = workload
        self._cache = AdapterCache(engine, SLOTS)
        self._sampling = SamplingParams(max_new_tokens=workload.output_len, ignore_eos=True)
        self._late_s: dict[str, float] = {}
        """By request id, from arrival to submission."""
        self._lock = threading.Lock()
        self._done = threading.Condition(self._lock)
        self._outcome = Outcome()
        engine.add_observer(self)

    def on_request_finished(self, record: RequestRecord) -> None:
        with self._done:
            self._outcome.ttft_s.append(self._late_s[record.request_id] + (record.ttft_s or 0.0))
            self._outcome.itl_s += record.itl_s
            self._outcome.tokens += record.completion_tokens
            self._done.notify_all()
        self._cache.release(record.adapter_id)

    def open(self, arrivals: Iterable[Arrival]) -> Outcome:
        """Submit each request when it arrives, whether or not earlier ones are done."""
        started = self._begin()
        futures = []
        with ThreadPoolExecutor(_SUBMITTERS) as pool:
            for i, arrival in enumerate(arrivals):
                time.sleep(max(0.0, started + arrival.at_s - time.perf_counter()))
                futures.append(pool.submit(self._submit, i, arrival.adapter, started + arrival.at_s))
        for future in futures:
            future.result()
        return self._end(started, len(futures))

    def closed(self, adapters: list[int], clients: int) -> Outcome:
        """`clients` threads, each with one request under way at a time."""
        started = self._begin()

        def ask(numbered: tuple[int, int]) -> None:
            i, adapter = numbered
            self._submit(i, adapter, time.perf_counter()).result()

        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(ask, enumerate(adapters)))
        return self._end(started, len(adapters))

    def warm(self, adapters: Iterable[int]) -> None:
        """Load the adapters before anything is measured."""
        for number in dict.fromkeys(adapters):
            name = self._workload.adapter_name(number)
            self._cache.acquire(name)
            self._cache.release(name)

    def _submit(self, index: int, adapter: int, arrived: float) -> Any:
        name = self._workload.adapter_name(adapter)
        self._cache.acquire(name)
        request = Request(
            token_ids=tuple(prompt(MODEL, index, self._workload.prompt_len)), adapter_id=name,
            sampling=self._sampling, request_id=str(index))
        self._late_s[str(index)] = time.perf_counter() - arrived
        return self._engine.submit(request)

    def _begin(self) -> float:
        self._outcome = Outcome()
        self._late_s = {}
        self._cache.load_s.clear()
        return time.perf_counter()

    def _end(self, started: float, count: int) -> Outcome:
        with self._done:
            self._done.wait_for(lambda: len(self._outcome.ttft_s) == count)
        outcome = self._outcome
        outcome.wall_s = time.perf_counter() - started
        outcome.load_s = list(self._cache.load_s)
        outcome.loads = len(outcome.load_s)
        return outcome


def summary(outcome: Outcome) -> dict[str, float]:
    result = {"tokens_per_s": outcome.tokens / outcome.wall_s, "loads": outcome.loads}
    for name, values in (("ttft", outcome.ttft_s), ("itl", outcome.itl_s), ("load", outcome.load_s)):
        if len(values) > 1:
            percentiles = quantiles(values, n=100, method="inclusive")
            result |= {f"{name}_p50_ms": percentiles[49] * 1e3, f"{name}_p99_ms": percentiles[98] * 1e3}
    return result


def main() -> None:
    args = _arguments()
    workload = Workload("open-loop", args.requests, args.prompt_len, args.output_len)
    largest = max(args.adapters)
    _write_adapters(workload, args, largest)
    config = EngineConfig(dtype="bfloat16", prefix_caching=False, max_adapters=SLOTS, max_waiting=args.requests)
    with Engine(MODEL, config) as engine:
        load = Load(engine, workload)
        _warm_up(load, args)
        report = run_closed(load, args) if args.closed else run_open(load, args)
    report["settings"] = {
        "slots": SLOTS, "requests": args.requests, "prompt_len": args.prompt_len, "output_len": args.output_len,
        "popularity": args.popularity,
        "eviction": "by this benchmark: least recently used, with unload_adapter and load_adapter",
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
        {"adapters": number, "clients": SLOTS} | sorted(found, key=lambda r: r["tokens_per_s"])[len(found) // 2]
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
                runs.append({"adapters": adapters, "arrivals": kind, "requests_per_s": rate} | summary(outcome))
                print(f"{adapters} adapters, {kind}, {rate:.1f}/s: done", file=sys.stderr, flush=True)
    return {"runs": runs, "capacity_requests_per_s": capacity}


def _picks(args: argparse.Namespace, adapters: int) -> list[int]:
    """Each request's adapter, of numbers 0 (the most popular) to `adapters` - 1."""
    return [i or 0 for i in choose(args.popularity, args.requests, adapters)]


def _write_adapters(workload: Workload, args: argparse.Namespace, largest: int) -> None:
    """Files of all that will be asked for: writing them is not part of what is measured."""
    wanted = {i for number in {*args.adapters, SLOTS, largest} for i in _picks(args, number)}
    for number in wanted:
        adapter_dir(workload.adapter_name(number), MODEL)


def _warm_up(load: Load, args: argparse.Namespace) -> None:
    load.closed(_picks(args, SLOTS)[:SLOTS], SLOTS)


def show(report: dict[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 130)
    settings = report["settings"]
    console.print(
        f"{settings['requests']} requests of {settings['prompt_len']} + {settings['output_len']} tokens, "
        f"{settings['popularity']} over the adapters, {SLOTS} slots. The engine has no eviction of its own: this "
        "benchmark unloads and loads adapters before it submits, and TTFT counts from the arrival, loading included.",
        highlight=False)
    columns = list(dict.fromkeys(key for run in report["runs"] for key in run))
    table = Table()
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")
    for run in report["runs"]:
        table.add_row(*(_cell(run.get(name)) for name in columns))
    console.print(table)
    if "ratio" in report:
        console.print(f"throughput, {report['runs'][1]['adapters']} adapters / {SLOTS}: {report['ratio']:.2f}")


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--closed", action="store_true", help="32 clients that wait, instead of arrivals.")
    parser.add_argument("--adapters", type=_numbers(int), default=[8, 32, 128, 1000], help="How many are registered.")
    parser.add_argument("--arrivals", type=_numbers(str), default=["poisson", "gamma"])
    parser.add_argument(
        "--load", type=_numbers(float), default=[0.5, 0.8], help="Arrivals as shares of the measured capacity.")
    parser.add_argument("--rate", type=float, default=0, help="Arrivals a second, instead of --load.")
    parser.add_argument("--requests", type=int, default=256, help="Requests of one run.")
    parser.add_argument("--repeats", type=int, default=3, help="Of the closed form.")
    parser.add_argument("--prompt-len", type=int, default=64)
    parser.add_argument("--output-len", type=int, default=64)
    parser.add_argument("--popularity", default="zipf-1.5")
    parser.add_argument("--json", type=Path, default=None, help="Also write the result there.")
    return parser.parse_args()


def _numbers(kind: type) -> Any:
    return lambda text: [kind(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
