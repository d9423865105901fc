"""What bringing adapters in takes, and what it costs the streams that run beside it."""

from __future__ import annotations

from benchmarks.gpu.bases import random_base
from benchmarks.gpu.cost import LLAMA_8B, TINY
from benchmarks.gpu.loads import copies, through_the_engine
from benchmarks.gpu.session.context import Context

BESIDE = {"rank": 16, "streams": 16, "tokens": 400, "loads": 8, "kv_cache_bytes": 4 << 30}
TINY_BESIDE = {"rank": 4, "streams": 1, "tokens": 5, "loads": 1, "kv_cache_bytes": 1 << 20}


def run(context: Context) -> None:
    shape = LLAMA_8B if context.real else TINY
    base = random_base(shape, context.device, context.dtype, slots=4)
    for rank in (8, 16, 64, 128) if context.real else (4,):
        if not context.has(f"copy, rank {rank}"):
            context.emit(**copies(base, shape, rank, context.repeats))
    context.emit(**through_the_engine(base, shape, **(BESIDE if context.real else TINY_BESIDE)))
