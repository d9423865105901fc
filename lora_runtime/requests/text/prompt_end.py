"""The end of a prompt, behind which an answer is decoded: its last character may be half there."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from typing import Any

_TOKENS = 5
_LOOK_BACK = 64
_LONGEST = 7
"""Bytes of the last whole character and of one that is begun, at most."""
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""Name of a byte's token, where a tokenizer falls back to bytes."""


def last_tokens(tokenizer: Any, prompt: Sequence[int]) -> tuple[list[int], int]:
    """Give the prompt's last tokens, and how many of them do not belong to a character that is
    begun and not ended.

    Tokenizers that fall back to bytes turn a run of them into text only if all of it is UTF-8: the
    tokens begin where a character does, and none is a byte that belongs to no character. Where
    tokens are bytes of the text in any case, what is behind a wrong one is read as it is.
    """
    tail = list(prompt[-_LOOK_BACK:])
    run = _bytes_at_end(tokenizer, tail)
    if not run:
        return tail[-_TOKENS:], min(_TOKENS, len(tail))
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(run[-_LONGEST:])
    begun = len(decoder.getstate()[0])
    if text and text[-1] != "\ufffd":
        end = len(tail) - begun
        before = tail[end - len(text[-1].encode()) : end]
    else:
        before = tail[: len(tail) - len(run)][-_TOKENS:]
    return before + tail[len(tail) - begun :], len(before)


def continues_character(tokenizer: Any, token_id: int) -> bool:
    """Whether a token is that of a byte within a character."""
    return byte_of(tokenizer, token_id) in range(0x80, 0xC0)


def _bytes_at_end(tokenizer: Any, ids: list[int]) -> bytes:
    """What the last tokens stand for, if each is that of a byte."""
    if not ids or not _is_byte(tokenizer, ids[-1]):
        return b""
    found = bytearray()
    for token_id in reversed(ids):
        if (byte := byte_of(tokenizer, token_id)) is None:
            break
        found.append(byte)
    found.reverse()
    return bytes(found)


def _is_byte(tokenizer: Any, token_id: int) -> bool:
    """Whether the token is that of a byte, and not just named so."""
    if (byte := byte_of(tokenizer, token_id)) is None:
        return False
    return tokenizer.decode([token_id]) != f"<0x{byte:02X}>"


def byte_of(tokenizer: Any, token_id: int) -> int | None:
    """The byte that a token is named for, None for others."""
    try:
        (name,) = tokenizer.convert_ids_to_tokens([token_id])
    except (IndexError, KeyError):  # an id that it does not know
        return None
    match = _BYTE.fullmatch(name or "")
    return int(match[1], 16) if match else None
