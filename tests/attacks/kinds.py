"""Kinds of attacks that go on while a server is ended."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from loramux.v1 import adapters_pb2

from . import hostile, http2
from .arena import Arena, expect
from .calls import asked, chat, load
from .forms import Asked, Many
from .fronts import GRPC, HTTP, Front
from .ground import Ground
from .server import ServerProcess
from .sockets import connections as held

PATIENCE_S = 15
"""How long it is tried to see that the server has not ended."""
Attack = Callable[[Arena, Ground, ServerProcess, ExitStack], None]


def _loaded(arena: Arena, ground: Ground, server: ServerProcess, kind: str) -> str:
    path = ground.adapter(f"mal-template-{kind}", hostile.TEMPLATES[kind])
    expect(load(arena, server, path), "OK")
    return path


def renders(
    arena: Arena, ground: Ground, server: ServerProcess, stack: ExitStack, front: Front = GRPC
) -> None:
    path = _loaded(arena, ground, server, "loop")
    go_on(arena, server, stack, front, [chat(adapter_id=path)] * 12)


def powers(arena: Arena, ground: Ground, server: ServerProcess, stack: ExitStack) -> None:
    path = _loaded(arena, ground, server, "power")
    go_on(arena, server, stack, GRPC, [chat(adapter_id=path)] * 4)


def loads(arena: Arena, ground: Ground, server: ServerProcess, stack: ExitStack) -> None:
    names = ("sparse 2 GiB", "slow to compile", "slow to match", "a queue for a file")
    requests = [
        adapters_pb2.LoadAdapterRequest(
            path=ground.adapter(f"mal-file-{n}".replace(" ", "-"), hostile.REFUSED_FILES[n]),
            adapter_id=f"mal-{i}",
        ).SerializeToString()
        for n in names
        for i in range(4)
    ]
    method = "/loramux.v1.Adapters/LoadAdapter"
    begun = arena.attackers.start(server.target, method, requests, "operator", timeout=PATIENCE_S)
    stack.callback(begun.result, 60)


def flood(
    arena: Arena, ground: Ground, server: ServerProcess, stack: ExitStack, front: Front = GRPC
) -> None:
    go_on(arena, server, stack, front, [asked(max_new_tokens=500)] * 1200)


def messages(
    arena: Arena, ground: Ground, server: ServerProcess, stack: ExitStack, front: Front = GRPC
) -> None:
    go_on(arena, server, stack, front, [Asked({"messages": Many({})})] * 10)


def long_answers(
    arena: Arena, ground: Ground, server: ServerProcess, stack: ExitStack, front: Front = GRPC
) -> None:
    request = asked(n=16, logprobs=20, max_new_tokens=150, temperature=1.0)
    go_on(arena, server, stack, front, [request] * 4)


def unread(
    arena: Arena, ground: Ground, server: ServerProcess, stack: ExitStack, front: Front = GRPC
) -> None:
    request = asked(n=16, logprobs=20, max_new_tokens=3000, temperature=1.0)
    front.leave_unread(arena.attackers, server, request, "attacker", 4, 8)


def watches(arena: Arena, ground: Ground, server: ServerProcess, stack: ExitStack) -> None:
    for service in ("", "live", "loramux.v1.Inference"):
        message = http2.watch_message(service)
        stack.enter_context(http2.calls_without_window(server.target, message=message, streams=20))


def connections(arena: Arena, ground: Ground, server: ServerProcess, stack: ExitStack) -> None:
    for port in (server.port, server.metrics_port, server.http_port):
        stack.enter_context(held(port, 50, b"GET /metrics HTTP/1.1\r\n"))


def everything(arena: Arena, ground: Ground, server: ServerProcess, stack: ExitStack) -> None:
    watches(arena, ground, server, stack)
    renders(arena, ground, server, stack)
    renders(arena, ground, server, stack, HTTP)
    loads(arena, ground, server, stack)
    connections(arena, ground, server, stack)


def go_on(
    arena: Arena,
    server: ServerProcess,
    stack: ExitStack,
    front: Front,
    requests: list[Asked],
    caller: str = "attacker",
) -> None:
    """Begin it; the test waits for the calls' ends when the server is gone."""
    begun = front.start(arena.attackers, server, requests, caller, timeout=PATIENCE_S)
    stack.callback(begun.result, 60)


_OVER_GRPC = (
    renders,
    powers,
    loads,
    flood,
    messages,
    long_answers,
    unread,
    watches,
    connections,
    everything,
)
_OVER_HTTP = (renders, flood, messages, long_answers, unread)
KINDS: dict[str, Attack] = {f.__name__.replace("_", " "): f for f in _OVER_GRPC}
KINDS |= {f"HTTP, {f.__name__.replace('_', ' ')}": partial(f, front=HTTP) for f in _OVER_HTTP}
