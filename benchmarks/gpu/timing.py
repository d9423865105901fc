"""A time beside the least that it could be."""

from __future__ import annotations

from benchmarks.gpu.cost import Cost
from benchmarks.gpu.machine import Ceilings


def beside_floor(seconds: float, cost: Cost, top: Ceilings) -> dict[str, float]:
    """Microseconds, the least at the ceilings `top` and its share, and the bandwidth that the least
    bytes had."""
    least = cost.seconds(top.bandwidth, top.rate)
    return {
        "us": seconds * 1e6,
        "floor_us": least * 1e6,
        "of_floor": least / seconds,
        "gb_per_s": cost.num_bytes / seconds / 1e9,
    }
