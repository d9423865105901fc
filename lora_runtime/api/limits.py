"""Limits of a request: how much of each field is looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property

from ..errors import FieldViolation, InvalidRequestError

MAX_STOP_STRINGS = 16
MAX_LOGIT_BIAS = 1024
MAX_STRUCTURED = 64 << 10


@dataclass(frozen=True)
class RequestLimits:
    """Limits of a request's lists, by field. An engine's are its `request_limits`.

    What is over one is refused by its count alone: to look at a million entries takes a second.
    """

    messages: int = 1024
    tools: int = 128
    documents: int = 128
    adapters: int = 8
    stop: int = MAX_STOP_STRINGS
    stop_token_ids: int = 256
    logit_bias: int = MAX_LOGIT_BIAS
    structured: int = MAX_STRUCTURED
    token_ids: int | None = None
    """Prompt tokens that a context has room for; None is no limit."""
    context_note: str = ""
    """Why that is less than the base's own context has; empty where it is not."""

    def at_most(self) -> Mapping[str, int]:
        """Entries that each field may have, without those that may have any number."""
        return self._at_most

    @cached_property
    def _at_most(self) -> dict[str, int]:
        return {
            f.name: limit for f in fields(self) if isinstance(limit := getattr(self, f.name), int)
        }

    def check(self, count: Callable[[str], int]) -> None:
        """Check what `count` says of each field. Raises InvalidRequestError that names all that
        have too many entries."""
        violations = [
            FieldViolation(name, self.excess(name))
            for name, limit in self.at_most().items()
            if count(name) > limit
        ]
        if violations:
            raise InvalidRequestError(violations)

    def excess(self, field: str) -> str:
        """Say that a field has too many entries."""
        note = f" ({self.context_note})" if field == "token_ids" and self.context_note else ""
        return f"at most {self.at_most()[field]}{_MORE.get(field, '')}{note}"


_MORE = {
    "messages": " messages",
    "tools": " tools",
    "documents": " documents",
    "adapters": " adapters",
    "stop": " strings",
    "stop_token_ids": " ids",
    "logit_bias": " tokens",
    "structured": " bytes",
    "token_ids": " tokens: the context holds one more, which is to be generated",
}
