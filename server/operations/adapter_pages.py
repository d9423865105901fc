"""Pages of adapters, the same for every front."""

from __future__ import annotations

import base64
import binascii
import threading
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence

from loramux.v1 import adapters_pb2 as pb

from lora_runtime import AdapterInfo, Engine, InvalidRequestError, UnknownAdapterError

from ..auth.tokens import Caller
from .adapter_messages import to_message

_MAX_PAGE = 1000
_DEFAULT_PAGE = 100
_MAX_BYTES = 4 << 20
"""Bytes that gRPC's clients take of a message by default."""
_CALLERS = 64
"""Callers whose ids are kept."""
_SLICE = 8
"""Reports after which others get the interpreter: one may have hundreds of modules."""
_PAUSE_S = 1e-4
_FRAME_BYTES = 6
"""Bytes of tag and length around an adapter."""


class IdsInScope:
    """Ids that callers may use, of all; found once for each caller until the ids change."""

    def __init__(self) -> None:
        self._found: OrderedDict[str, tuple[Caller, Sequence[str], Sequence[str]]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, who: Caller, ids: Sequence[str]) -> Sequence[str]:
        """Find those of `ids` that `who` may use; `ids` is the same object until they change."""
        if "*" in who.adapters:
            return ids
        with self._lock:
            known = self._found.pop(who.name, None)
        if known is None or known[0] is not who or known[1] is not ids:
            known = who, ids, [adapter_id for adapter_id in ids if who.may_use(adapter_id)]
        with self._lock:
            self._found[who.name] = known
            while len(self._found) > _CALLERS:
                self._found.popitem(last=False)
        return known[2]


class AdapterPages:
    """Pages of one server's adapters. They take locks: for a thread, see Reads."""

    def __init__(self, engine: Callable[[], Engine], max_message_bytes: int) -> None:
        self._engine, self._max_message_bytes = engine, max_message_bytes
        self._ids = IdsInScope()

    def page(
        self,
        who: Caller,
        size: int,
        token: str,
        make: Callable[[AdapterInfo], pb.Adapter],
    ) -> pb.ListAdaptersResponse:
        """Make a page of the adapters that `who` may use, each as `make` has it. Raises
        InvalidRequestError, EngineStoppedError."""
        engine = self._engine()
        ids = self._ids.of(who, engine.adapter_ids())
        return page(ids, engine.get_adapter, size, token, self._max_message_bytes, make)


def page(
    ids: Sequence[str],
    report: Callable[[str], AdapterInfo],
    size: int,
    token: str,
    max_bytes: int,
    make: Callable[[AdapterInfo], pb.Adapter] = to_message,
) -> pb.ListAdaptersResponse:
    """Make one page of the adapters with `ids`, which are sorted. Raises InvalidRequestError.

    It has at most `size` of them, and fewer where they would not fit into a message of `max_bytes`,
    but one. `report` tells of one of them, and is asked for those of the page alone; `make` makes
    its message. The token is the last id seen, so that loads and unloads between pages skip nothing
    else.
    """
    if size > _MAX_PAGE:
        raise InvalidRequestError.of("page_size", f"must be at most {_MAX_PAGE}")
    after, size = _decode_token(token), size or _DEFAULT_PAGE
    start = 0 if after is None else bisect_right(ids, after)
    told = ids[start : start + size]
    shown = list(_fitting(told, lambda name: make(report(name)), min(max_bytes, _MAX_BYTES)))
    seen = len(shown)
    last = told[seen - 1] if shown else ""
    following = _encode_token(last) if start + seen < len(ids) else ""
    return pb.ListAdaptersResponse(
        adapters=[message for message in shown if message is not None],
        next_page_token=following,
        total_size=len(ids),
    )


def _fitting(
    ids: Iterable[str], make: Callable[[str], pb.Adapter], max_bytes: int
) -> Iterator[pb.Adapter | None]:
    """Give a message for each, None for one that was unloaded meanwhile, as many as fit."""
    left = max_bytes * 7 // 8  # the rest is for the token
    any_shown = False
    for number, adapter_id in enumerate(ids):
        if number % _SLICE == _SLICE - 1:
            time.sleep(_PAUSE_S)
        try:
            message = make(adapter_id)
        except UnknownAdapterError:
            yield None
            continue
        left -= message.ByteSize() + _FRAME_BYTES
        if left < 0 and any_shown:
            return
        any_shown = True
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
