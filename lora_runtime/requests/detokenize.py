"""Token ids to text, piece by piece, without broken characters and without stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .stop_strings import stop_strings

_REPLACEMENT = "\ufffd"
# A UTF-8 character has at most 4 bytes and a byte-level token at least one: a longer run that still
# ends in U+FFFD is bytes that will never become a character.
_MAX_PENDING = 8
# Copies of a token that show whether it has a text: a lone one may be a space that is left out at
# the beginning, or a part of a character.
_COPIES = 3


class IncrementalDetokenizer:
    """Decodes a growing sequence. Special tokens give no text, and neither do unknown ones.

    Decoding starts a few tokens back, since tokenizers treat the first token of a text specially
    (the leading space of SentencePiece); only what is new is returned.
    """

    def __init__(self, tokenizer: Any, context: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = list(context[-5:])
        self._read = len(self._ids)
        self._prefix = 0

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes; "" while a character is unfinished."""
        self._ids.append(token_id)
        text = self._new_text()
        unfinished = text.endswith(_REPLACEMENT)
        if (unfinished or not text) and not self._decode([token_id] * _COPIES):
            # However many of these come, the next token is decoded behind what has a text.
            self._ids.pop()
            return ""
        if unfinished and len(self._ids) - self._read < _MAX_PENDING:
            return ""
        return self._accept(text)

    def flush(self) -> str:
        """What is left at the end, without an unfinished character."""
        return self._accept(self._new_text().rstrip(_REPLACEMENT))

    def _new_text(self) -> str:
        known = self._decode(self._ids[self._prefix : self._read])
        return self._decode(self._ids[self._prefix :])[len(known) :]

    def _accept(self, text: str) -> str:
        if text:
            self._prefix, self._read = self._read, len(self._ids)
        if self._prefix > 64:  # keep the buffer short however long the output
            del self._ids[: self._prefix]
            self._read -= self._prefix
            self._prefix = 0
        return text

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


class StopMatcher:
    """Holds text back while it could still be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._strings = stop_strings(tuple(stops)) if stops else None
        self._state = 0
        self._pending = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Text that is safe to emit, and whether a stop string was completed.

        The stop string that is complete first wins (of two that end together, the longer), however
        the text is cut into pushes; nothing of it nor behind it is emitted.
        """
        if self._strings is None:
            return text, False
        before = len(self._pending)
        self._pending += text
        self._state, end = self._strings.scan(self._state, text)
        if end:
            safe = self._pending[: before + end - self._strings.found[self._state]]
            self._pending, self._state = "", 0
            return safe, True
        cut = len(self._pending) - self._strings.depth[self._state]
        safe, self._pending = self._pending[:cut], self._pending[cut:]
        return safe, False

    def flush(self) -> str:
        """The pending text, once no more can follow."""
        text, self._pending, self._state = self._pending, "", 0
        return text
