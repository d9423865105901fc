"""A grammar that can be had: it was tried, and each row compiles it for itself."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from llguidance import LLMatcher, LLTokenizer

from .check import compiled
from .row import RowGrammar


@dataclass(frozen=True)
class Grammar:
    """Grammar of an answer, for one tokenizer.

    Rows do not share what is compiled: copies of a matcher have one lexer, and one lock around it.
    A row would wait for another's mask, and fail when others have filled the lexer with states.
    """

    tokenizer: LLTokenizer
    text: str
    seconds: float
    """What its trial took."""

    def matcher(self) -> LLMatcher:
        """A matcher at the beginning of an answer. Raises ValueError."""
        return compiled(self.tokenizer, self.text)

    def row(self, ends: Collection[int], ignore_eos: bool, owner: str = "") -> RowGrammar:
        """One sequence's place in it, at the beginning."""
        return RowGrammar(
            self.matcher, self.tokenizer.vocab_size, ends, ignore_eos, self.seconds, owner
        )
