"""Requests as bytes: what no client library would send, made at no cost."""

from __future__ import annotations

FULL = (4 << 20) - 256
"""Bytes of a message that is as long as one may be."""
GENERATE = "/loramux.v1.Inference/Generate"
STREAM = "/loramux.v1.Inference/GenerateStream"

PROMPT, TOKEN_IDS, MESSAGES, STOP, STOP_TOKEN_IDS, ADAPTERS = 2, 3, 4, 14, 15, 20
TEMPLATE_VALUES = 25


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def tag(number: int, kind: int = 2) -> bytes:
    return varint(number << 3 | kind)


def field(number: int, content: bytes | str) -> bytes:
    """A field of text, of a message, or of packed numbers."""
    data = content.encode() if isinstance(content, str) else content
    return tag(number) + varint(len(data)) + data


def repeated(number: int, content: bytes | str = b"", size: int = FULL) -> bytes:
    """The field again and again, `size` bytes together."""
    one = field(number, content)
    return one * (size // len(one))


def packed(number: int, value: int = 3, size: int = FULL) -> bytes:
    """A repeated number, `size` bytes together."""
    one = varint(value)
    return field(number, one * (size // len(one)))


def unpacked(number: int, value: int = 3, size: int = FULL) -> bytes:
    """As `packed`, each number a field of its own."""
    one = tag(number, 0) + varint(value)
    return one * (size // len(one))


def nested(number: int, depth: int) -> bytes:
    """Messages in messages."""
    data = b""
    for _ in range(depth):
        data = field(number, data)
    return data
