"""The learning rate as a function of the step."""

from __future__ import annotations

import math


def learning_rate(peak: float, schedule: str, warmup: float, step: int, total: int) -> float:
    """Rate of the step counted from 0. It rises over the first `warmup` of the steps, then stays or
    falls towards 0."""
    rising = math.ceil(total * warmup)
    if step < rising:
        return peak * (step + 1) / (rising + 1)
    progress = (step - rising) / max(total - rising, 1)
    if schedule == "linear":
        return peak * (1 - progress)
    if schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * progress))
    return peak
