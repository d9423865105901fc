"""A storm: threads do random things to one engine, and what is left afterwards is a leak."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from lora_runtime import AdapterInfo, Engine, EngineObserver

from .answers import Answers
from .clients import Cast, Client, Tally
from .files import swap

_IDLE_S = 60.0


class Movements(EngineObserver):
    """Counts how adapters come and go."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def on_adapter_loaded(self, info: AdapterInfo, seconds: float) -> None:
        self.counts["loaded"] += 1

    def on_adapter_evicted(self, info: AdapterInfo, reason: str) -> None:
        self.counts[reason] += 1

    def on_adapter_failed(self, adapter_id: str, error: Exception) -> None:
        self.counts["failed"] += 1


@dataclass
class StormReport:
    """`failures`: wrong answers and unexpected errors; `leaks`: what was left at the end."""

    seconds: float
    actions: dict[str, int]
    outcomes: dict[str, int]
    movements: dict[str, int]
    checked_answers: int
    checked_tokens: int
    distinct_answers: float
    """Share of the expected answers that only one adapter gives."""
    failures: list[str]
    leaks: list[str]
    rss_growth_bytes: int
    """In the second half."""
    steps: int = 0
    preemptions: int = 0
    settings: dict[str, int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not (self.failures or self.leaks)


def run_storm(
    engine: Engine, cast: Cast, answers: Answers, seconds: float, seed: int = 0, threads: int = 8
) -> StormReport:
    """Load all ids, storm for `seconds`, wait until nothing runs, look for leaks, unload all, and
    look again."""
    movements, tally = Movements(), Tally()
    engine.add_observer(movements)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        _load_all(engine, cast, root)
        before = _Resources.now()
        until = time.monotonic() + seconds
        clients = []
        for i in range(threads):
            (own := root / f"client-{i}").mkdir()
            client = Client(engine, cast, answers, tally, seed * 1000 + i, own, root)
            clients.append(threading.Thread(target=client.run, args=[until], name=f"storm-{i}"))
        for thread in clients:
            thread.start()
        # By then every thread's heap, the KV cache and the tiers are as large as they get.
        time.sleep(seconds / 2)
        warm = _Resources.now()
        for thread in clients:
            thread.join()
        took = time.monotonic() - until + seconds
        leaks = _wait_and_look(engine)
        leaks += [f"left in the scratch directory: {p.name}" for p in root.glob("client-*/*")]
        growth = _Resources.now().rss_bytes - warm.rss_bytes
        leaks += _unload_all(engine)
    leaks += before.leaked(_Resources.now())
    stats = engine.stats()
    return StormReport(
        took,
        dict(tally.actions),
        dict(tally.outcomes),
        dict(movements.counts),
        tally.checked_answers,
        tally.checked_tokens,
        answers.distinct,
        tally.failures,
        leaks,
        growth,
        stats.steps,
        stats.preemptions,
        {
            "ids": len(cast.all),
            "threads": threads,
            "slots": engine.config.max_adapters,
            "host_bytes": engine.config.adapter_host_bytes,
            "seed": seed,
        },
    )


def _load_all(engine: Engine, cast: Cast, root: Path) -> None:
    for adapter_id, contents in (cast.plain | cast.paired).items():
        engine.load_adapter(contents[0], adapter_id)
    for adapter_id, contents in cast.fragile.items():
        (root / adapter_id).mkdir()
        swap(contents[0], root / adapter_id)
        engine.load_adapter(root / adapter_id, adapter_id)


# --- leaks ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Resources:
    """Of this process."""

    files: int
    threads: frozenset[str]
    rss_bytes: int

    @classmethod
    def now(cls) -> _Resources:
        gc.collect()
        # The engine starts its loader threads as they are needed, and keeps them.
        names = (t.name for t in threading.enumerate() if not t.name.startswith("loramux-load"))
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(
            len(os.listdir("/proc/self/fd")), frozenset(names), pages * os.sysconf("SC_PAGE_SIZE")
        )

    def leaked(self, after: _Resources) -> list[str]:
        found = [f"{after.files - self.files} file descriptors"] if after.files > self.files else []
        return found + [f"thread {name}" for name in after.threads - self.threads]


def _wait_and_look(engine: Engine) -> list[str]:
    """What requests still hold, once they are all over."""
    end = time.monotonic() + _IDLE_S
    while (leaks := _left_over(engine)) and time.monotonic() < end:
        time.sleep(0.02)
    return leaks


def _left_over(engine: Engine) -> list[str]:
    stats, store = engine.stats(), engine._store
    names = ("running", "waiting", "leases", "kv_blocks_used", "loading_adapters")
    counts = {name: getattr(stats, name) for name in names}
    counts["requests in the engine"] = len(engine._loop._live)
    counts["sequences counted for limits"] = sum(engine._limits._unfinished.values())
    counts["sequences counted as running"] = engine._scheduler._running.of_tenant.total()
    counts["sequences counted by versions"] = sum(
        v.running for v in store._registry.versions.values()
    )
    counts["loading flags"] = sum(v.loading for v in store._registry.versions.values())
    counts["slots too many"] = max(0, stats.adapters - engine.config.max_adapters)
    counts["host bytes over budget"] = max(
        0, stats.host_adapter_bytes - engine.config.adapter_host_bytes
    )
    return [f"{name}: {count}" for name, count in counts.items() if count]


def _unload_all(engine: Engine) -> list[str]:
    for info in engine.list_adapters():
        engine.unload_adapter(info.adapter_id, timeout_s=5)
    stats, registry = engine.stats(), engine._store._registry
    names = (
        "adapters",
        "adapter_bytes",
        "host_adapters",
        "host_adapter_bytes",
        "registered_adapters",
        "leases",
    )
    counts = {name: getattr(stats, name) for name in names}
    tiers = registry.tiers
    counts |= {
        "versions": len(registry.versions),
        "pinned": len(tiers.pinned),
        "staged": len(tiers.hosted),
    }
    counts["ranks of wanted versions"] = len(tiers._rank)
    return [f"after unloading all, {name}: {count}" for name, count in counts.items() if count]


# --- report ---------------------------------------------------------------------------------------


def show(report: StormReport) -> None:
    for title, counts in (
        ("actions", report.actions),
        ("outcomes", report.outcomes),
        ("adapters", report.movements),
    ):
        print(f"{title}: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    print(
        f"{report.checked_answers} answers, {report.checked_tokens} tokens checked in {report.seconds:.0f} s "
        f"(seed {report.settings['seed']}); {report.steps} steps, {report.preemptions} preemptions; "
        f"RSS grew by {report.rss_growth_bytes / 2**20:.0f} MiB in the second half"
    )
    for line in [f"FAILED {t}" for t in report.failures] + [f"LEFT {t}" for t in report.leaks]:
        print(line)
    print("passed" if report.passed else "failed")
