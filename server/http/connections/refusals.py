"""Refusals of what is no request: by the connection itself, before there is a call."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import NamedTuple

from ..errors import form

URL_BYTES = 8 << 10
"""Most bytes of a request's URL."""
CHUNKS = 4096
"""Most chunks of a body: to take one of a byte takes as long as one of a thousand."""


class Refusal(NamedTuple):
    """What a client is told whose bytes are no request."""

    status: int
    code: str
    text: str


NO_HTTP = Refusal(400, "invalid_http", "this is no HTTP/1.1 request")
FULL = Refusal(503, "no_connection_left", "the server has no connection left")
LARGE_HEAD = Refusal(431, "headers_too_large", "the headers are too many, or too long")
LONG_URL = Refusal(414, "url_too_long", f"the URL has over {URL_BYTES} bytes")
LARGE_BODY = Refusal(413, "request_too_large", "the body is too large")
MANY_CHUNKS = Refusal(413, "too_many_chunks", f"the body has over {CHUNKS} chunks")
PIPELINE = Refusal(400, "too_many_requests_at_once", "too many requests wait on a connection")
SLOW = Refusal(408, "request_timeout", "the request did not come in time")


class RefusedError(Exception):
    """Error that ends the parser's work."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal


def answer(refusal: Refusal) -> bytes:
    """Make the whole answer, in OpenAI's form."""
    body = json.dumps(form(refusal.status, refusal.text, None, refusal.code)).encode()
    head = (
        f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
