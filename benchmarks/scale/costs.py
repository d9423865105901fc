"""What things take, as measured on a real server."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Steps:
    """Seconds of a core that steps take."""

    step: float
    """Of each, whatever is in it."""
    decode_row: float
    prefill_token: float
    adapter: float
    """Of each distinct adapter in it."""

    def of(self, decode_rows: int, prefill_tokens: int, adapters: int) -> float:
        return (
            self.step
            + self.decode_row * decode_rows
            + self.prefill_token * prefill_tokens
            + self.adapter * adapters
        )


@dataclass(frozen=True)
class Process:
    """Seconds of a core that a process takes which answers, passes on or asks."""

    wake: float = 0.0
    """To wake up, for one or many things."""
    call: float = 0.0
    token: float = 0.0
    """Of an answer."""


@dataclass(frozen=True)
class Costs:
    """Seconds of a core."""

    steps: Steps
    loads: tuple[float, ...]
    """Of loads that were measured; one of them is drawn for each."""
    front: Process
    """The server's process beyond steps and loads."""
    envoy: Process = Process()
    client: Process = Process()
    """These two where they share the machine."""
    interpreted: Steps = Steps(0, 0, 0, 0)
    """Part of the steps that needs the interpreter's lock, as the front does: what they take of a
    base that computes next to nothing."""
    attention_span: float = float("inf")
    """The base's: tokens of context that cost as much as all else of a token."""
    beside: float = 1.0
    """How many times longer things take while another process computes, too."""
    step_error: float = 0.0
    """Median of how far the steps that were measured are from the formula."""

    def of_load(self, rng: random.Random) -> float:
        return rng.choice(self.loads)

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Costs:
        """Read what was made of them by `asdict`, and by JSON."""
        steps = {name: Steps(**found[name]) for name in ("steps", "interpreted")}
        processes = {name: Process(**found[name]) for name in ("front", "envoy", "client")}
        return cls(**{**found, **steps, **processes, "loads": tuple(found["loads"])})
