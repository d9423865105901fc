"""Loads that all tools send alike, and what a tool says of one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

STAND_IN = "stand-in"
LORAMUX = "loramux"
ADAPTER, PROMPT = "pirate", "Tell me about dogs."


@dataclass(frozen=True)
class Load:
    """Calls of one kind to one server: `concurrency` callers that wait for their answers, or, with
    a `rate`, calls at even times whatever becomes of those before."""

    name: str
    server: str
    stream: bool
    calls: int
    tokens: int
    concurrency: int
    """In an open loop: the most calls that may be under way."""
    rate: int | None = None
    first_ms: float = 0
    """The stand-in's time to the first token."""
    gap_ms: float = 0
    """The stand-in's time between tokens."""

    @property
    def method(self) -> str:
        return "GenerateStream" if self.stream else "Generate"

    def request(self) -> dict[str, Any]:
        """The request, with the fields of GenerateRequest."""
        return {
            "adapter_id": ADAPTER,
            "prompt": PROMPT,
            "max_new_tokens": self.tokens,
            "ignore_eos": True,
        }


@dataclass(frozen=True)
class Said:
    """What a tool says of one run of a load. Times in milliseconds."""

    rps: float
    mean: float
    p50: float
    p90: float
    p99: float
    statuses: dict[str, int]
    cpu_s: float = 0
    """Seconds of a core that the tool took, its start included."""
    ttft_p50: float | None = None
    ttft_p99: float | None = None
    itl_mean: float | None = None
    itl_p99: float | None = None

    def numbers(self) -> dict[str, float | None]:
        return {name: value for name, value in asdict(self).items() if name != "statuses"}


_SLOW = {"first_ms": 80, "gap_ms": 10}

LOADS = [
    Load("delay-unary-closed", STAND_IN, False, 480, 8, 16, **_SLOW),
    Load("delay-stream-closed", STAND_IN, True, 160, 32, 16, **_SLOW),
    Load("delay-unary-open", STAND_IN, False, 480, 8, 64, 80, **_SLOW),
    Load("delay-stream-open", STAND_IN, True, 160, 32, 64, 30, **_SLOW),
    Load("model-unary-closed", LORAMUX, False, 48, 32, 8),
    Load("model-stream-closed", LORAMUX, True, 48, 32, 8),
    Load("model-unary-open", LORAMUX, False, 40, 32, 64, 2),
    Load("model-stream-open", LORAMUX, True, 40, 32, 64, 2),
]
"""The server's own share of a call is the larger one in all: a tool is no measure of itself."""
