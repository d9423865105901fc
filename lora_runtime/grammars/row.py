"""One row's place in its grammar: which tokens may come next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLTokenizer

from ..errors import described
from .check import said

SLOW_S = 0.02
"""Seconds of the processor's beyond which a row's masks are computed where no quick row waits."""
_HEAVY_S = 0.1
"""Seconds of a trial beyond which a row stays there, however quick its masks are."""
_LONG_S = 0.002
"""Seconds of a mask beyond which the next token may hold up others' threads."""
_NO_TOKEN = 0xFFFFFFFE
"""Id beyond every vocabulary."""
_local = threading.local()


class RowGrammar:
    """Matcher of one sequence, and the mask of its next token.

    The engine's thread calls `advance`, and reads the mask once `is_ready`; in between, and before
    the first token, another thread calls `compute`, which makes the matcher at first. Tokens that
    end the sequence (`ends`) are allowed where the grammar may end; with `ignore_eos` only where
    nothing else may come.
    """

    def __init__(
        self,
        make: Callable[[], LLMatcher],
        vocab_size: int,
        ends: Collection[int],
        ignore_eos: bool = False,
        seconds: float = 0.0,
        owner: str = "",
    ) -> None:
        """`seconds`: what to make the matcher took; `owner`: who takes turns with others'."""
        self._make, self._ignores_eos, self.owner = make, ignore_eos, owner
        self._matcher: LLMatcher | None = None
        self._is_heavy = seconds > _HEAVY_S
        self._seconds = 0.0
        """What the last mask took."""
        self.mask = np.zeros(-(-vocab_size // 32), np.uint32)
        """A bit for each token, the lowest first."""
        self._address = self.mask.ctypes.data
        self._bytes = self.mask.nbytes
        self._ends = np.zeros_like(self.mask)
        for token in (t for t in ends if t < vocab_size):
            self._ends[token // 32] |= np.uint32(1 << token % 32)
        self._token = -1
        self.is_slow = seconds > SLOW_S
        self.is_begun = self.is_ready = False
        self.is_late = False
        """Whether a step went by without it."""
        self.is_dropped = False
        self.only_ends = False
        """Whether nothing may come but a token that ends the sequence."""
        self.error = ""

    def advance(self, token: int) -> None:
        """Take the sequence's next token; `compute` is to be called."""
        self._token, self.is_ready = token, False

    def compute(self) -> None:
        """Compute the mask behind the token that `advance` took. What raises is the row's error."""
        try:
            if self._matcher is None:
                self._matcher = self._make()
                self.is_slow = self._is_heavy
            began = time.thread_time()
            if self._token < 0 or self._consume(self._matcher):
                self._fill(self._matcher)
            else:
                self.error = said(self._matcher)
            self._seconds = time.thread_time() - began
            self.is_slow = self.is_slow or self._seconds > SLOW_S
        except BaseException as error:  # panics of Rust's code too
            self.error = described(error)
        self.is_ready = True

    def release(self) -> None:
        """Free the matcher, behind the last mask."""
        if self._matcher is not None:
            free(self._matcher)
            self._matcher = None

    def allows(self, token: int) -> bool:
        return token // 32 < len(self.mask) and bool(self.mask[token // 32] >> token % 32 & 1)

    def _consume(self, matcher: LLMatcher) -> bool:
        if self.is_slow or self._seconds > _LONG_S:
            return _consume_beside(matcher, self._token)
        return matcher.consume_token(self._token)

    def _fill(self, matcher: LLMatcher) -> None:
        mask = self.mask
        if matcher.is_stopped():
            mask[:] = 0
        else:
            matcher.unsafe_compute_mask_ptr(self._address, self._bytes)
        if matcher.is_error():
            self.error = said(matcher)
            return
        # llguidance has the base's ends in it, as far as the grammar may end.
        np.bitwise_and(mask, ~self._ends, out=mask)
        self.only_ends = not mask.any()
        if matcher.is_accepting():
            if self.only_ends or not self._ignores_eos:
                np.bitwise_or(mask, self._ends, out=mask)
        elif self.only_ends:
            self.error = "no token may come next"


def free(matcher: LLMatcher) -> None:
    """Free what a matcher has without the interpreter's lock, which its end would keep for tens of
    milliseconds where that is much. One that fails at a token has nothing any more."""
    _consume_beside(matcher, _NO_TOKEN)


def _consume_beside(matcher: LLMatcher, token: int) -> bool:
    """Consume a token without the interpreter's lock, which LLMatcher.consume_token keeps: with many
    properties, or many ways to read a text, for tens of milliseconds. llguidance lets go of it
    where it has two to advance."""
    if not hasattr(_local, "executor"):
        _local.executor = LLExecutor(1)
        _local.other = LLMatcher(LLTokenizer("byte"), "no grammar", log_level=0)
    return _local.executor.consume_token_par([(matcher, token), (_local.other, 0)])[0]
