"""What a request adds to the logits of tokens: its bias, and -inf for what ends it too early."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from ..api.requests import SamplingParams
from ..errors import InvalidRequestError


@dataclass(frozen=True)
class Addends:
    """Distinct token ids, and what is added to the logit of each: float32, -inf included."""

    ids: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, values: Mapping[int, float]) -> Addends:
        return cls(np.array(list(values), np.int64), np.array(list(values.values()), np.float32))


@dataclass(frozen=True)
class TokenBias:
    """Addends of a request's rows, made once for all of its choices."""

    always: Addends | None
    early: Addends | None
    """Those of the first `min_tokens` tokens, the others' included."""
    min_tokens: int

    def at(self, num_generated: int) -> Addends | None:
        """What is added where the next token is chosen; None is nothing."""
        return self.early if num_generated < self.min_tokens else self.always


def token_bias(params: SamplingParams, ends: Collection[int], vocab_size: int) -> TokenBias | None:
    """Make the addends of a request, None if it has none. Raises InvalidRequestError.

    `ends`: tokens that end its answers; `vocab_size`: of its own vocabulary.
    """
    if bad := next((t for t, _ in params.logit_bias if not 0 <= t < vocab_size), None):
        raise InvalidRequestError.of(
            "logit_bias", f"token id {bad} is outside the vocabulary of {vocab_size}"
        )
    bias = dict(params.logit_bias)
    always = early = Addends.of(bias) if bias else None
    if params.min_tokens:
        suppressed = dict.fromkeys((t for t in ends if 0 <= t < vocab_size), -np.inf)
        if len(suppressed) == vocab_size:
            raise InvalidRequestError.of("min_tokens", "every token ends the answer")
        early = Addends.of(bias | suppressed)
    return TokenBias(always, early, params.min_tokens) if always or early else None
