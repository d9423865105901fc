"""Token ids to text, piece by piece, without broken characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .backend import decode
from .prompt_end import continues_character, last_tokens

_REPLACEMENT = "\ufffd"
# A UTF-8 character has at most 4 bytes and a byte-level token at least one: a longer run that still
# ends in U+FFFD is bytes that will never become a character.
_MAX_PENDING = 8
# Copies of a token that show whether it has a text: a lone one may be a space that is left out at
# the beginning, or a part of a character.
_COPIES = 3


class IncrementalDetokenizer:
    """Decodes a growing sequence behind `context`, the prompt. Unknown tokens give no text, and
    special ones none unless they are shown.

    Decoding starts a few tokens back, since tokenizers treat the first token of a text specially
    (the leading space of SentencePiece); only what is new is returned. A character that the context
    begins is new as a whole, once it is complete.
    """

    def __init__(
        self, tokenizer: Any, context: Sequence[int] = (), skip_special_tokens: bool = True
    ) -> None:
        self._tokenizer, self._skips = tokenizer, skip_special_tokens
        self._ids, self._read = last_tokens(tokenizer, context)
        self._prefix = 0
        self._is_open = self._read < len(self._ids)
        """Whether bytes that are begun wait for the first token with a text."""
        whole = self._decode(self._ids[: self._read])
        self._done = len(whole.rstrip(_REPLACEMENT))
        """Characters of the text behind `_prefix` that are no news."""
        self._begun = len(self._decode(self._ids) if self._is_open else whole) - self._done
        """U+FFFD behind these: what the context has begun, which stays so unless it is ended."""

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes; "" while a character is unfinished."""
        if self._is_open:
            self._go_on_or_leave(token_id)
        self._ids.append(token_id)
        text = self._new_text()
        unfinished = text.endswith(_REPLACEMENT)
        if (unfinished or not text) and not self._decode([token_id] * _COPIES):
            # However many of these come, the next token is decoded behind what has a text.
            self._ids.pop()
            return ""
        if unfinished and len(self._ids) - self._read < _MAX_PENDING:
            return self._take(text.rstrip(_REPLACEMENT))
        return self._accept(text)

    def flush(self) -> str:
        """What is left at the end, without an unfinished character."""
        if self._read == len(self._ids):
            return ""
        return self._accept(self._new_text().rstrip(_REPLACEMENT))

    def special_text(self, token_id: int, always: bool = False) -> str:
        """The text of a special token as it is where these are shown; "" for others, unless
        `always`."""
        if not always and self._text([token_id] * _COPIES, skip_special_tokens=True):
            return ""
        return self._text([token_id], skip_special_tokens=False)

    def _go_on_or_leave(self, token_id: int) -> None:
        """Leave the bytes that the context has begun, if another character comes: they would spoil
        its bytes."""
        if not self._decode([token_id] * _COPIES):
            return
        self._is_open = False
        if not continues_character(self._tokenizer, token_id):
            del self._ids[self._read :]
            self._begun = 0

    def _new_text(self) -> str:
        text = self._decode(self._ids[self._prefix :])[self._done :]
        return text[self._still_begun(text) :]

    def _still_begun(self, text: str) -> int:
        return min(self._begun, len(text) - len(text.lstrip(_REPLACEMENT)))

    def _take(self, text: str) -> str:
        """Give the whole characters before one that is unfinished."""
        if text:
            behind = self._decode(self._ids[self._prefix :])[self._done :]
            self._done += self._still_begun(behind) + len(text)
            self._begun = 0
        return text

    def _accept(self, text: str) -> str:
        if text:
            self._prefix, self._read = self._read, len(self._ids)
            self._done, self._begun = len(self._decode(self._ids[self._prefix :])), 0
        if self._prefix > 64:  # keep the buffer short however long the output
            del self._ids[: self._prefix]
            self._read -= self._prefix
            self._prefix = 0
        return text

    def _decode(self, ids: list[int]) -> str:
        return self._text(ids, skip_special_tokens=self._skips)

    def _text(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        return decode(self._tokenizer, ids, skip_special_tokens)
