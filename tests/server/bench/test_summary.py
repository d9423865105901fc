"""Statistics of calls whose times are known."""

from __future__ import annotations

import pytest

from server.bench.call import Call
from server.bench.recorder import Recorder
from server.bench.summary import spread, summary


def call(adapter: str, intended: float, sent: float, tokens: list[tuple[float, int]]) -> Call:
    """A call whose tokens came at these times, and which ended with the last."""
    made = Call(adapter, intended, sent)
    for at, count in tokens:
        made.took(count, at)
    made.ended = tokens[-1][0]
    return made


def summed(*calls: Call) -> dict:
    recorder = Recorder()
    recorder.started, recorder.ended = 10.0, 14.0
    recorder.calls = list(calls)
    return summary(recorder, open_loop=True)


def test_times_and_rates_by_adapter_and_in_all() -> None:
    one = call("", 10.0, 10.5, [(11.0, 1), (11.2, 1), (11.8, 3)])
    other = call("a", 11.0, 11.0, [(11.3, 1), (11.4, 1)])
    failed = Call("a", 12.0, 12.0, ended=12.5, status="NOT_FOUND")
    found = summed(one, other, failed)
    total, a = found["total"], found["adapters"]["a"]
    assert total["statuses"] == {"OK": 2, "NOT_FOUND": 1}
    assert (total["calls_per_s"], total["ok_per_s"]) == (3 / 4, 2 / 4)
    assert (total["tokens"], total["tokens_per_s"]) == (7, 7 / 4)
    assert (a["calls"], a["ok"], a["tokens_per_s"]) == (2, 1, 2 / 4)
    assert total["ttft_ms"]["p50"] == pytest.approx((500 + 300) / 2)
    assert total["ttft_from_intended_ms"]["max"] == pytest.approx(1000)
    assert total["latency_ms"]["max"] == pytest.approx(1300)
    assert total["latency_from_intended_ms"]["max"] == pytest.approx(1800)
    # Three tokens of one message have its gap in equal parts.
    assert found["adapters"]["base"]["itl_ms"]["count"] == 4
    assert found["adapters"]["base"]["itl_ms"]["mean"] == pytest.approx(200)
    assert a["itl_ms"]["mean"] == pytest.approx(100)


def test_percentiles_lie_between_values() -> None:
    found = spread([i / 1e3 for i in range(101)])
    assert found is not None
    assert (found["p50"], found["p90"], found["p99"]) == pytest.approx((50, 90, 99))
    assert (found["min"], found["max"], found["count"]) == (0, 100, 101)
    assert spread([]) is None
