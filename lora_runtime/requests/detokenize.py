"""Token ids to text, piece by piece, without broken characters and without stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_REPLACEMENT = "\ufffd"
# A UTF-8 character has at most 4 bytes and a byte-level token at least one: a longer run that still
# ends in U+FFFD is bytes that will never become a character.
_MAX_PENDING = 8


class IncrementalDetokenizer:
    """Decodes a growing sequence. Special tokens give no text.

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
        if text.endswith(_REPLACEMENT) and len(self._ids) - self._read < _MAX_PENDING:
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
        self._stops = tuple(stops)
        self._pending = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Text that is safe to emit, and whether a stop string was completed.

        The stop string that is complete first wins (of two that end together, the longer), however
        the text is cut into pushes; nothing of it nor behind it is emitted.
        """
        if not self._stops:
            return text, False
        self._pending += text
        hits = [(at + len(s), at) for s in self._stops if (at := self._pending.find(s)) >= 0]
        if hits:
            safe, self._pending = self._pending[: min(hits)[1]], ""
            return safe, True
        keep = max(self._overlap(s) for s in self._stops)
        cut = len(self._pending) - keep
        safe, self._pending = self._pending[:cut], self._pending[cut:]
        return safe, False

    def flush(self) -> str:
        """The pending text, once no more can follow."""
        text, self._pending = self._pending, ""
        return text

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the pending text that begins `stop`."""
        limit = min(len(stop) - 1, len(self._pending))
        return next((n for n in range(limit, 0, -1) if self._pending.endswith(stop[:n])), 0)
