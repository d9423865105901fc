"""Adapters: load, unload, get and list."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from loramux.v1 import adapters_pb2 as pb
from loramux.v1 import adapters_pb2_grpc

from lora_runtime import AdapterInfo, Engine

from .. import errors

_MAX_PAGE = 1000
_DEFAULT_PAGE = 100
_MAX_UNLOAD_WAIT_S = 3600
T = TypeVar("T")


class AdaptersService(adapters_pb2_grpc.AdaptersServicer):
    """Calls that may wait run on worker threads, off the event loop."""

    def __init__(self, engine: Callable[[], Engine], roots: Sequence[Path]) -> None:
        self._engine = engine
        self._roots = [root.resolve() for root in roots]

    async def LoadAdapter(self, request: pb.LoadAdapterRequest, context: grpc.aio.ServicerContext) -> pb.Adapter:
        def load() -> AdapterInfo:
            return self._engine().load_adapter(self._confine(request.path), request.adapter_id or None)

        return to_message(await _run(load, context))

    async def UnloadAdapter(self, request: pb.UnloadAdapterRequest, context: grpc.aio.ServicerContext) -> pb.Adapter:
        def unload() -> AdapterInfo:
            if not 0 <= request.timeout_s <= _MAX_UNLOAD_WAIT_S:
                raise errors.invalid("timeout_s", f"must be in [0, {_MAX_UNLOAD_WAIT_S}]")
            return self._engine().unload_adapter(request.adapter_id, request.timeout_s)

        return to_message(await _run(unload, context))

    async def GetAdapter(self, request: pb.GetAdapterRequest, context: grpc.aio.ServicerContext) -> pb.Adapter:
        return to_message(await _run(lambda: self._engine().get_adapter(request.adapter_id), context))

    async def ListAdapters(
        self, request: pb.ListAdaptersRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListAdaptersResponse:
        def page() -> pb.ListAdaptersResponse:
            if request.page_size > _MAX_PAGE:
                raise errors.invalid("page_size", f"must be at most {_MAX_PAGE}")
            after, size = _decode_token(request.page_token), request.page_size or _DEFAULT_PAGE
            adapters = self._engine().list_adapters()
            # The token is the last id seen, so that loads and unloads between pages skip nothing else.
            rest = [a for a in adapters if after is None or a.adapter_id > after]
            token = _encode_token(rest[size - 1].adapter_id) if len(rest) > size else ""
            return pb.ListAdaptersResponse(
                adapters=[to_message(a) for a in rest[:size]], next_page_token=token, total_size=len(adapters))

        return await _run(page, context)

    def _confine(self, path: str) -> Path:
        """The real path, symbolic links followed. Raises PermissionError outside the adapter roots."""
        if not path or "\0" in path:
            raise errors.invalid("path", "must not be empty")
        if not self._roots:
            raise PermissionError("this server has no adapter root: loading over gRPC is switched off")
        real = (self._roots[0] / path).resolve()
        # The files inside may be links of their own: mounted volumes have those, but not to elsewhere.
        for target in (real, *(f.resolve() for f in (real.iterdir() if real.is_dir() else ()))):
            if not any(target.is_relative_to(root) for root in self._roots):
                raise PermissionError("the path is outside the server's adapter roots")
        return real


async def _run(work: Callable[[], T], context: grpc.aio.ServicerContext) -> T:
    try:
        return await asyncio.to_thread(work)
    except Exception as error:
        await errors.abort(context, error)


def to_message(info: AdapterInfo) -> pb.Adapter:
    loaded_at = Timestamp()
    loaded_at.FromNanoseconds(int(info.loaded_at * 1e9))
    return pb.Adapter(
        adapter_id=info.adapter_id, version=info.version, source=info.source, base_model_name=info.base_model_name,
        modules=[pb.AppliedModule(name=m.name, rank=m.rank, scaling=m.scaling) for m in info.modules],
        num_bytes=info.num_bytes, leases=info.leases, loaded_at=loaded_at, max_rank=info.max_rank,
    )


def _encode_token(adapter_id: str) -> str:
    return base64.urlsafe_b64encode(adapter_id.encode()).decode()


def _decode_token(token: str) -> str | None:
    if not token:
        return None
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError) as error:
        raise errors.invalid("page_token", "is not a token that ListAdapters gave") from error
