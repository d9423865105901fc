"""A call of the load, and what makes it."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from .draws.prompts import Prompt

OK = "OK"
CONNECT_TIMEOUT_S = 10.0


class BenchError(Exception):
    """Error that leaves nothing to measure; the message is one line a person can act on."""


@dataclass(slots=True, eq=False)
class Call:
    """One call and its times, in seconds of the monotonic clock."""

    adapter: str
    intended: float
    """When it was due; of a closed loop, when it was sent."""
    sent: float
    ended: float = 0.0
    status: str = OK
    message: str = ""
    """Why it failed."""
    first: float | None = None
    """When the first token came; None of unary calls."""
    last: float = 0.0
    """When the last token came."""
    gaps: array[float] = field(default_factory=lambda: array("d"))
    """Seconds between tokens. Those that come in one message share its gap."""
    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens that the server found in its prefix cache."""

    def took(self, tokens: int, now: float) -> None:
        """Note tokens of a stream that have come."""
        self.tokens += tokens
        if self.first is None:
            self.first = now
        elif tokens == 1:
            self.gaps.append(now - self.last)
        else:
            self.gaps.extend([(now - self.last) / tokens] * tokens)
        self.last = now

    def fail(self, status: str, message: str) -> None:
        self.status, self.message = status, message


@dataclass(frozen=True)
class Ask:
    """What all calls of a load have in common."""

    max_new_tokens: int
    ignore_eos: bool
    stream: bool
    timeout_s: float
    salted: bool
    """True where no call finds its prompt in the prefix cache."""


class Driver(Protocol):
    """Way to a server. A context manager, which holds its connections."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    async def connect(self) -> None:
        """Open a connection, so that no call has that in it. Raises BenchError."""

    async def adapters(self) -> list[str]:
        """Give the ids of the server's adapters. Raises BenchError."""

    async def make(self, call: Call, prompt: Prompt) -> None:
        """Make the call, and note in it what comes; its errors too."""
