"""A route of the HTTP front: what serves it, and what is told of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from starlette.responses import Response

from .calls import Call
from .schemas import Schema

Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True)
class Route:
    """Route by its path and method. An open one asks for no token."""

    method: str
    path: str
    handler: Handler
    is_open: bool = False
    query: Mapping[str, Schema] = field(default_factory=dict)
    """Schemas of the parameters in its address."""
    body: Schema | None = None
    answer: Schema | None = None
    """Schema of what is done well; None is plain text."""

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"
