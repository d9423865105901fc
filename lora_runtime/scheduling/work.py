"""The work of a step's tokens: attention of one late in a prompt may be more than all else of it."""

from __future__ import annotations

import math


class Work:
    """Work of prompt tokens, in tokens that have no context.

    `span`: tokens of context that cost as much as everything else of a token. Infinity leaves
    contexts out of account.
    """

    def __init__(self, span: float = math.inf) -> None:
        self._span = span

    def of(self, start: int, count: int) -> int:
        """Give the work of `count` tokens from position `start` on."""
        return math.ceil(count * (1 + (start + count / 2) / self._span))

    def tokens(self, start: int, most: int) -> int:
        """Give the tokens from `start` on that `most` work computes: one at least, if any."""
        if most <= 0 or self._span == math.inf:
            return max(0, most)
        each = 1 + start / self._span
        return max(1, int(self._span * (math.sqrt(each**2 + 2 * most / self._span) - each)))
