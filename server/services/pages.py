"""Pages of ListAdapters."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from loramux.v1 import adapters_pb2 as pb

from lora_runtime import AdapterInfo

from .. import errors
from .adapter_messages import to_message

_MAX_PAGE = 1000
_DEFAULT_PAGE = 100


def page(adapters: Sequence[AdapterInfo], size: int, token: str) -> pb.ListAdaptersResponse:
    """One page of `adapters`, sorted by id. Raises InvalidRequestError.

    The token is the last id seen, so that loads and unloads between pages skip nothing else.
    """
    if size > _MAX_PAGE:
        raise errors.invalid("page_size", f"must be at most {_MAX_PAGE}")
    after, size = _decode_token(token), size or _DEFAULT_PAGE
    rest = [a for a in adapters if after is None or a.adapter_id > after]
    following = _encode_token(rest[size - 1].adapter_id) if len(rest) > size else ""
    return pb.ListAdaptersResponse(
        adapters=[to_message(a) for a in rest[:size]], next_page_token=following, total_size=len(adapters))


def _encode_token(adapter_id: str) -> str:
    return base64.urlsafe_b64encode(adapter_id.encode()).decode()


def _decode_token(token: str) -> str | None:
    if not token:
        return None
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError) as error:
        raise errors.invalid("page_token", "is not a token that ListAdapters gave") from error
