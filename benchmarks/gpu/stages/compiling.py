"""All kernels of the stages behind this one, compiled side by side; without a GPU, a look at each
kind for three."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks.gpu.attempts import attempt
from benchmarks.gpu.compiling.cache import NAME, pack, unpack
from benchmarks.gpu.compiling.launches import QUICK, of_the_stages
from benchmarks.gpu.compiling.pool import compile_all
from benchmarks.gpu.session.context import Context


def run(context: Context) -> None:
    cache = Path(os.environ["TRITON_CACHE_DIR"])
    cache.mkdir(parents=True, exist_ok=True)
    if (carried := context.carried / NAME).exists():
        with attempt(context, "carried cache", may_fail=True):  # without it everything is compiled
            context.emit("carried cache", kernels=unpack(carried, cache))
    if context.real:
        jobs = [(launch, _capability(context)) for launch in of_the_stages()]
    else:
        jobs = [
            (launch, capability) for capability, launches in QUICK.items() for launch in launches
        ]
    started, compiled, cached = time.monotonic(), 0, 0
    for row in compile_all(jobs):
        kernels = row.pop("kernels")
        compiled, cached = compiled + 1, cached + bool(row["cached"])
        short = {
            k["kernel"]: [k["registers"], k["spilled"], k["shared"], k["wgmma"], k["mma"]]
            for k in kernels
        }
        context.emit(**row, kernels=short, good=not row["problems"])
        if compiled % 20 == 0:  # what is there should the stage be cut off
            context.emit("packed", bytes=pack(cache, context.out / NAME), launches=compiled)
    context.emit("compiled", launches=compiled, cached=cached, seconds=time.monotonic() - started)
    context.emit("packed", bytes=pack(cache, context.out / NAME), launches=compiled)


def _capability(context: Context) -> int:
    machine = next(row for row in context.found["environment"] if row["name"] == "machine")
    return int(machine["capability"].replace(".", ""))
