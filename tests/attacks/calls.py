"""Calls of administrators and callers, in short."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from loramux.v1 import adapters_pb2

from .arena import Arena
from .attackers import Outcome
from .forms import Asked
from .fronts import GRPC, Answer, Front
from .server import ServerProcess


def asked(**fields: Any) -> Asked:
    """A request of four tokens, but for the fields."""
    defaults: dict[str, Any] = {"max_new_tokens": 4, "ignore_eos": True}
    if not fields.keys() & {"token_ids", "messages"}:
        defaults["prompt"] = "Once upon a time"
    return Asked(defaults | fields)


def chat(content: str = "Hello", **fields: Any) -> Asked:
    return asked(messages=[{"role": "user", "content": content}], **fields)


def administer(
    arena: Arena, server: ServerProcess, method: str, *requests: Message, caller: str = "operator"
) -> list[Outcome]:
    """Calls of the Adapters service, all at once."""
    data = [request.SerializeToString() for request in requests]
    name = f"/loramux.v1.Adapters/{method}"
    return arena.attackers.send(server.target, name, data, caller, timeout=30)


def load(
    arena: Arena, server: ServerProcess, path: str, *ids: str, caller: str = "operator", **more: Any
) -> list[Outcome]:
    requests = [
        adapters_pb2.LoadAdapterRequest(path=path, adapter_id=i, **more) for i in ids or (path,)
    ]
    return administer(arena, server, "LoadAdapter", *requests, caller=caller)


def unload(arena: Arena, server: ServerProcess, *ids: str) -> list[Outcome]:
    requests = [adapters_pb2.UnloadAdapterRequest(adapter_id=i, timeout_s=5) for i in ids]
    return administer(arena, server, "UnloadAdapter", *requests)


def answer(
    arena: Arena, server: ServerProcess, caller: str, front: Front = GRPC, **fields: Any
) -> Answer:
    """One choice of a request that must be answered."""
    (one,) = front.send(arena.attackers, server, [asked(**fields)], caller, keep=True, timeout=20)
    assert one.code == "OK", f"an innocent request: {one.code} {one.details}"
    return front.answer(one.messages[0])
