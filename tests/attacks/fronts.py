"""The two fronts that an attack may come over: one set of attacks is sent over either."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import pytest
from loramux.v1 import inference_pb2 as pb

from .attackers import PATIENCE_S, Attackers, Outcome
from .forms import Asked
from .server import ServerProcess
from .wire import GENERATE, STREAM


@dataclass(frozen=True)
class Answer:
    """What an innocent caller looks at."""

    token_ids: list[int]
    cached_tokens: int


@dataclass(frozen=True)
class Front:
    """A front, as attackers and callers use it."""

    name: str
    over: tuple[str, ...] = ("OK", "RESOURCE_EXHAUSTED")
    """How calls end of which there are more than there is room for."""
    unread: tuple[str, ...] = ()
    """How a refused call may end whose body is not read to its end."""
    ways: tuple[bool, ...] = (False, True)
    """Ways in which a request is read: whether as a stream's."""

    def __str__(self) -> str:
        return self.name

    def named(self, attack: str) -> str:
        """The attack's name in the table."""
        return f"HTTP, {attack}" if self is HTTP else attack

    def send(
        self,
        attackers: Attackers,
        server: ServerProcess,
        requests: Sequence[Asked],
        caller: str = "",
        stream: bool = False,
        **how: Any,
    ) -> list[Outcome]:
        """Send all at once and wait for every end."""
        begun = self.start(attackers, server, requests, caller, stream, **how)
        return begun.result(2 * PATIENCE_S)

    def start(
        self,
        attackers: Attackers,
        server: ServerProcess,
        requests: Sequence[Asked],
        caller: str = "",
        stream: bool = False,
        **how: Any,
    ) -> Future[list[Outcome]]:
        """As `send`, without waiting."""
        if self is HTTP:
            posts = _each(requests, lambda one: one.http(stream))
            return attackers.post(server.http_target, posts, caller, **how)
        data = _each(requests, Asked.protobuf)
        return attackers.start(server.target, STREAM if stream else GENERATE, data, caller, **how)

    def leave_unread(
        self,
        attackers: Attackers,
        server: ServerProcess,
        request: Asked,
        caller: str,
        streams: int,
        seconds: float,
    ) -> Future[int]:
        """Open streams whose first message alone is read; how many gave one."""
        if self is HTTP:
            post = request.http(stream=True)
            return attackers.leave_posts_unread(server.http_target, post, caller, streams, seconds)
        data = request.protobuf()
        return attackers.leave_unread(server.target, STREAM, data, caller, streams, seconds)

    def answer(self, message: bytes) -> Answer:
        """One choice of an answer that was kept."""
        if self is HTTP:
            value = json.loads(message)
            details = value["usage"].get("prompt_tokens_details") or {}
            return Answer(value["choices"][0]["token_ids"], details.get("cached_tokens") or 0)
        choice = pb.GenerateResponse.FromString(message).choices[0]
        return Answer(list(choice.token_ids), choice.usage.cached_tokens)


def _each(requests: Sequence[Asked], form: Any) -> list[Any]:
    """Their forms; one that is sent a thousand times is written once."""
    written = {id(one): form(one) for one in {id(one): one for one in requests}.values()}
    return [written[id(one)] for one in requests]


GRPC = Front("grpc")
# Each call has a connection of its own: it may find no place, or lose it while it says what it wants.
HTTP = Front("http", (*GRPC.over, "UNAVAILABLE", "CLOSED"), ("CLOSED",), (True,))
both = pytest.mark.parametrize("front", [GRPC, HTTP], ids=str)
"""For what each front reads and writes by code of its own."""


def over_both(
    attackers: Attackers,
    server: ServerProcess,
    requests: Sequence[Asked],
    caller: str,
    stream: bool = False,
    **how: Any,
) -> Callable[[], list[Outcome]]:
    """Send all at once over either front: for what is the same code behind them.

    What it gives waits for every end.
    """
    begun = {
        front: front.start(attackers, server, requests, caller, stream, **how)
        for front in (GRPC, HTTP)
    }

    def ended() -> list[Outcome]:
        return [
            replace(outcome, details=outcome.details and f"{front}: {outcome.details}")
            for front, outcomes in begun.items()
            for outcome in outcomes.result(2 * PATIENCE_S)
        ]

    return ended


both_http_slow = pytest.mark.parametrize(
    "front", [GRPC, pytest.param(HTTP, marks=pytest.mark.slow)], ids=str
)
"""For what takes seconds, and is the same code behind them."""
