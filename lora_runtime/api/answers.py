"""Events and answers of a request."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from .parsed import MessageDelta, ParsedMessage


class FinishReason(StrEnum):
    """Why a sequence ended."""

    EOS = "eos"
    STOP = "stop"
    """A stop string or a stop token id was produced."""
    LENGTH = "length"
    """`max_new_tokens` or the context length was reached."""


@dataclass(frozen=True)
class AdapterUse:
    """The adapter version that serves a request, and its weight."""

    adapter_id: str
    version: str
    weight: float = 1.0


@dataclass(frozen=True)
class TokenLogprob:
    """Log probability (natural log) of the chosen token and of the most likely ones, (id, logprob)."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Usage:
    """Token counts. `cached_tokens` of the prompt were found in the prefix cache."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Timings:
    """Server-side seconds: waiting before the first step, prefill to the first token, decode."""

    queue_s: float
    prefill_s: float
    decode_s: float


@dataclass(frozen=True)
class TokenEvent:
    """Increment of one choice. The last event of a choice has `finish_reason`, `usage`, `timings`."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    message: MessageDelta | None = None
    """What it adds to the message; None unless the request has `parse_answer`."""
    stopped_by: str | int | None = None
    """Stop string or stop token that ended the choice."""


@dataclass(frozen=True)
class Choice:
    """One finished completion."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    message: ParsedMessage | None = None
    stopped_by: str | int | None = None
    """Stop string or stop token that ended it."""


@dataclass(frozen=True)
class Generation:
    """All choices of one request, ordered by index, and the adapter version that served them."""

    request_id: str
    adapter_id: str
    adapter_version: str
    choices: tuple[Choice, ...]
    adapters: tuple[AdapterUse, ...] = ()
    """Every adapter that served it; of a composition `adapter_id` and `adapter_version` are empty.
    """

    @property
    def text(self) -> str:
        """The first choice's text."""
        return self.choices[0].text
