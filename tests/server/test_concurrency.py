"""Many streams at once, half of them cancelled: nothing is left behind."""

from __future__ import annotations

import asyncio
import random

from ..support.engines import is_idle
from ..support.servers import Harness

STREAMS, ADAPTERS = 64, 8


def fields_of(i: int) -> dict:
    return {
        "adapter_id": f"a{i % ADAPTERS}",
        "prompt": f"prompt number {i} " * (1 + i % 5),
        "max_new_tokens": 24,
        "ignore_eos": True,
    }


async def test_64_streams_over_8_adapters_half_cancelled(served: Harness) -> None:
    rng = random.Random(0)
    cancelled = set(rng.sample(range(STREAMS), STREAMS // 2))
    cut_after = {i: rng.randrange(0, 20) for i in cancelled}
    alone = {
        i: (await served.generate(**fields_of(i))).text
        for i in range(STREAMS)
        if i not in cancelled
    }

    async def consume(i: int) -> str:
        stream, text, count = served.stream(**fields_of(i)), "", 0
        if cut_after.get(i) == 0:
            await asyncio.sleep(rng.random() / 10)
            stream.cancel()
            return ""
        async for event in stream:
            text, count = text + event.text, count + 1
            if count == cut_after.get(i):
                stream.cancel()
                return ""
        return text

    texts = await asyncio.gather(*(consume(i) for i in range(STREAMS)))
    assert {i: texts[i] for i in alone} == alone
    stats = await served.idle_stats()
    assert is_idle(stats), stats
    assert stats.steps > 0
    assert [a.leases for a in served.app.engine.list_adapters()] == [0] * ADAPTERS
    outcomes = {o: _count(served, o) for o in ("ok", "cancelled")}
    assert outcomes["ok"] >= 2 * len(alone)
    assert outcomes["cancelled"] > 0


def _count(served: Harness, outcome: str) -> float:
    value = served.app.metrics.registry.get_sample_value
    labels = [{"adapter": f"a{i}", "outcome": outcome} for i in range(ADAPTERS)]
    return sum(value("loramux_requests_total", label) or 0 for label in labels)
