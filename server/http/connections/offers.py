"""Offers of another protocol, such as h2c: passed over, and the request is served as it is.

uvicorn's parser takes no body behind one.
"""

from __future__ import annotations

from typing import Any


class Rest:
    """Receiver of the body of a request whose head has been read by another parser."""

    def __init__(self, connection: Any) -> None:
        self.on_body = connection.on_body
        self.on_message_complete = connection.on_message_complete
        self.on_chunk_header = connection.on_chunk_header


def head_of_rest(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Make a head with what says how long a body is."""
    told = [
        b": ".join(one) for one in headers if one[0] in (b"content-length", b"transfer-encoding")
    ]
    return b"\r\n".join([b"POST / HTTP/1.1", *told, b"", b""])
