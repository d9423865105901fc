"""Lengths of texts, bounded before templates and tokenizers work on them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from ...api.messages import ChatMessage
from ...errors import InvalidRequestError

LEAST_LONGEST = 64
"""Characters that a token is taken to have at least: normalizers leave some of a text out."""
_SHORT = 5
"""Bytes, by token of the context, of a text that is tokenized at once: most that fit have fewer."""
_PIECE = 1 << 15
"""Characters of a piece of a longer one, of which a tokenizer makes a hundred thousand tokens."""
_MARGIN = 1.25
"""Tokens that pieces have more than the whole text, at most: they are cut anywhere."""
_ONE_AT_A_TIME = threading.Lock()
"""Lock of long texts' tokenizing: steps need the cores, too."""


def longest_token(tokenizer: Any) -> int:
    """Characters that one token may stand for."""
    return max((len(token) for token in tokenizer.get_vocab()), default=0)


class TextLimit:
    """Limit of a prompt's text: what a context of `max_context` tokens can hold of it."""

    def __init__(self, max_context: int, longest: int = LEAST_LONGEST, note: str = "") -> None:
        """Take the characters of the `longest` token. `note`: why the context is no longer."""
        self.note = f" ({note})" if note else ""
        self._max_context = max_context
        self._longest = max(longest, LEAST_LONGEST)
        self.characters = max_context * self._longest

    def check_messages(self, messages: Sequence[ChatMessage]) -> None:
        """Check what a chat template is to render. Raises InvalidRequestError."""
        self._check(sum(len(text) for m in messages for text in m.texts()), "messages")

    def tokenize(self, text: str, field: str, ids: Callable[[str], list[int]]) -> list[int]:
        """Turn a text into token ids; `ids` is the tokenizer's way. Raises InvalidRequestError.

        A long one goes through it in pieces first, until they have more tokens than a context
        holds: a tokenizer takes a second and hundreds of bytes a token for what nobody can use.
        """
        self._check(len(text), field)
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise InvalidRequestError.of(field, "has halves of characters (surrogates)") from None
        # A token has a byte at least: of characters outside ASCII, each may have several tokens.
        if size <= self._max_context * _SHORT:
            return ids(text)
        found = 0
        step = max(_PIECE, self._longest * 16)
        for start in range(0, len(text), step):
            with _ONE_AT_A_TIME:
                found += len(ids(text[start : start + step])) - self._longest
            if found > self._max_context * _MARGIN:
                raise InvalidRequestError.of(
                    field,
                    f"has over {self._max_context} tokens, more than the context holds{self.note}",
                )
        with _ONE_AT_A_TIME:
            return ids(text)

    def _check(self, characters: int, field: str) -> None:
        if characters > self.characters:
            raise InvalidRequestError.of(
                field,
                f"has {characters} characters, far over the context of {self._max_context} tokens{self.note}",
            )
