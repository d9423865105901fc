"""The text of single tokens, as bytes: a token may have but a part of a character."""

from __future__ import annotations

from collections.abc import MutableMapping
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

from .prompt_end import byte_of

_REPLACEMENT = "\ufffd"
_KEPT = 1 << 15
"""Tokens of one tokenizer whose bytes are kept: some MB."""


class TokenBytes:
    """Bytes of a tokenizer's tokens, where they stand behind others: with the space before a word.

    Special tokens have the bytes of their names. Ids that the tokenizer does not know have none.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        decoder = getattr(getattr(tokenizer, "_tokenizer", None), "decoder", None)
        self._is_byte_level = type(decoder).__name__ == "ByteLevel"
        self._known: dict[int, bytes] = _KNOWN.setdefault(tokenizer, {})

    def __call__(self, token_id: int) -> bytes:
        found = self._known.get(token_id)
        if found is None:
            found = self._bytes(token_id)
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[token_id] = found
        return found

    def _bytes(self, token_id: int) -> bytes:
        if self._is_byte_level:  # ten times as fast, and a step may give hundreds
            name = self._name(token_id)
            found = self._by_name(name)
            return name.encode() if found is None else found
        byte = byte_of(self._tokenizer, token_id)
        # Twice, since a tokenizer may leave out the space of the first one.
        once, twice = self._text([token_id]), self._text([token_id] * 2)
        if byte is not None and once != f"<0x{byte:02X}>":
            return bytes([byte])
        text = twice[len(once) :] if twice.startswith(once) else once
        if _REPLACEMENT in twice:
            return self._by_name(self._name(token_id)) or text.encode()
        return text.encode()

    def _name(self, token_id: int) -> str:
        try:
            (name,) = self._tokenizer.convert_ids_to_tokens([token_id])
        except (IndexError, KeyError):  # an id that it does not know
            return ""
        return name or ""

    def _by_name(self, name: str) -> bytes | None:
        """Bytes of a byte-level token, whose name has a character for each; None for others."""
        found = [_byte_of_character().get(character) for character in name]
        return bytes(b for b in found if b is not None) if None not in found else None

    def _text(self, ids: list[int]) -> str:
        try:
            return self._tokenizer.decode(
                ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        except (IndexError, KeyError, TypeError):  # an id that it does not know
            return ""


_KNOWN: MutableMapping[Any, dict[int, bytes]] = WeakKeyDictionary()


@cache
def _byte_of_character() -> dict[str, int]:
    # Imported late: it brings in every slow tokenizer there is.
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {character: byte for byte, character in bytes_to_unicode().items()}
