"""Pages of ListAdapters."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence

from loramux.v1 import adapters_pb2 as pb

from lora_runtime import AdapterInfo, InvalidRequestError

from .adapter_messages import to_message

_MAX_PAGE = 1000
_DEFAULT_PAGE = 100
_MAX_BYTES = 4 << 20
"""Bytes that gRPC's clients take of a message by default."""
_FRAME_BYTES = 6
"""Bytes of tag and length around an adapter."""


def page(
    adapters: Sequence[AdapterInfo], size: int, token: str, max_bytes: int
) -> pb.ListAdaptersResponse:
    """Make one page of `adapters`, sorted by id. Raises InvalidRequestError.

    It has at most `size` of them, and fewer where they would not fit into a message of `max_bytes`,
    but one. The token is the last id seen, so that loads and unloads between pages skip nothing
    else.
    """
    if size > _MAX_PAGE:
        raise InvalidRequestError.of("page_size", f"must be at most {_MAX_PAGE}")
    after, size = _decode_token(token), size or _DEFAULT_PAGE
    rest = [a for a in adapters if after is None or a.adapter_id > after]
    shown = list(_fitting(rest[:size], min(max_bytes, _MAX_BYTES)))
    following = _encode_token(shown[-1].adapter_id) if len(rest) > len(shown) else ""
    return pb.ListAdaptersResponse(
        adapters=shown, next_page_token=following, total_size=len(adapters)
    )


def _fitting(adapters: Iterable[AdapterInfo], max_bytes: int) -> Iterator[pb.Adapter]:
    left = max_bytes * 7 // 8  # the rest is for the token
    for number, info in enumerate(adapters):
        message = to_message(info)
        left -= message.ByteSize() + _FRAME_BYTES
        if left < 0 and number:
            return
        yield message


def _encode_token(adapter_id: str) -> str:
    return base64.urlsafe_b64encode(adapter_id.encode()).decode()


def _decode_token(token: str) -> str | None:
    if not token:
        return None
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError) as error:
        raise InvalidRequestError.of(
            "page_token", "is not a token that ListAdapters gave"
        ) from error
