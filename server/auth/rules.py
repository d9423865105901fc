"""Rules of the RPCs: the right that each needs, and the adapters that its scope must cover."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from loramux.v1 import adapters_pb2, inference_pb2

from lora_runtime import MAX_ID_LENGTH

from ..locations import adapter_id_of
from .tokens import Caller

OPEN_PREFIX = "/grpc.health.v1.Health/"
"""Prefix of the health checks' methods: probes have no tokens."""
ANY_TOKEN_PREFIX = "/grpc.reflection."
NO_TOKEN = "a valid bearer token is needed"


class Right(StrEnum):
    USE = "use"
    """Right to generate; comes with the scope."""
    READ = "read"
    ADMIN = "admin"


@dataclass(frozen=True)
class Rule:
    """Rule of one RPC. `adapters`: the ids that a request names, "" for the base."""

    right: Right
    adapters: Callable[[Any], Iterable[str]]

    def refusal(self, caller: Caller, request: Any) -> str:
        """Reason why `caller` may not make this call; empty if it may."""
        priority = request.priority if self.right is Right.USE else 0
        return refusal(caller, self.right, self.adapters(request), priority)


def refusal(caller: Caller, right: Right, adapters: Iterable[str], priority: int = 0) -> str:
    """Reason why `caller` may not use this right of these adapters; empty if it may."""
    if right is Right.USE and priority > caller.max_priority:
        return f"priority {priority} is above the highest of this token, {caller.max_priority}"
    if right is not Right.USE and not getattr(caller, right):
        return f"this token has no {right} right"
    for adapter_id in adapters:
        if not caller.may_use(adapter_id):
            name = f"adapter {adapter_id[:MAX_ID_LENGTH]!r}" if adapter_id else "the base model"
            return f"{name} is outside this token's scope"
    return ""


def _generate_ids(request: inference_pb2.GenerateRequest) -> list[str]:
    composed = [a.adapter_id for a in request.adapters]
    # With both given the request is invalid, which its caller may hear only of adapters in scope.
    return composed if composed and not request.adapter_id else [request.adapter_id, *composed]


def _load_ids(request: adapters_pb2.LoadAdapterRequest) -> list[str]:
    return [adapter_id_of(request)]


def _adapter_id(request: Any) -> list[str]:
    return [request.adapter_id]


def _none(request: Any) -> list[str]:
    return []


_USE, _ADMIN, _GET = (
    Rule(Right.USE, _generate_ids),
    Rule(Right.ADMIN, _adapter_id),
    Rule(Right.READ, _adapter_id),
)
_READ = Rule(Right.READ, _none)
RULES: dict[str, Rule] = {
    "/loramux.v1.Inference/Generate": _USE,
    "/loramux.v1.Inference/GenerateStream": _USE,
    "/loramux.v1.Adapters/LoadAdapter": Rule(Right.ADMIN, _load_ids),
    "/loramux.v1.Adapters/UnloadAdapter": _ADMIN,
    "/loramux.v1.Adapters/RollbackAdapter": _ADMIN,
    "/loramux.v1.Adapters/SetCanary": _ADMIN,
    "/loramux.v1.Adapters/SetPolicy": _ADMIN,
    "/loramux.v1.Adapters/GetAdapter": _GET,
    # The lists show only what is in scope.
    "/loramux.v1.Adapters/ListAdapters": _READ,
    "/loramux.v1.Adapters/ListDeclaredAdapters": _READ,
    "/loramux.v1.Server/GetServerInfo": _READ,
    "/loramux.v1.Server/GetStatus": _READ,
}
