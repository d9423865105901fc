"""Service of adapters: load, unload, roll back, canary, policy, get and list."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import grpc
from loramux.v1 import adapters_pb2 as pb
from loramux.v1 import adapters_pb2_grpc

from lora_runtime import (
    MAX_ID_LENGTH,
    AdapterInfo,
    Engine,
    InvalidRequestError,
)

from .. import errors
from ..auth.interceptor import caller
from ..auth.shares import PIN_SHARE, check_policy
from ..declared import DeclaredStatus
from ..operations.adapter_changes import ALL, AdapterChanges, check_length
from ..operations.adapter_messages import (
    from_policy,
    may_see,
    to_declared,
    to_message,
    without_modules,
)
from ..operations.adapter_pages import AdapterPages
from ..operations.reads import Reads
from ..request_ids import request_id_of

T = TypeVar("T")


class AdaptersService(adapters_pb2_grpc.AdaptersServicer):
    """Service of adapters."""

    def __init__(
        self,
        engine: Callable[[], Engine],
        changes: AdapterChanges,
        declared: Callable[[], Iterable[DeclaredStatus]],
        pages: AdapterPages,
        reads: Reads,
    ) -> None:
        self._engine, self._changes, self._declared = engine, changes, declared
        self._pages, self._reads = pages, reads

    async def LoadAdapter(
        self, request: pb.LoadAdapterRequest, context: grpc.aio.ServicerContext
    ) -> pb.Adapter:
        async def load() -> AdapterInfo:
            policy = from_policy(request.policy) if request.HasField("policy") else None
            return await self._changes.load(request, caller(), policy)

        return to_message(await _run(load(), context, request.adapter_id))

    async def UnloadAdapter(
        self, request: pb.UnloadAdapterRequest, context: grpc.aio.ServicerContext
    ) -> pb.Adapter:
        unloading = self._changes.unload(request.adapter_id, request.timeout_s, caller())
        return to_message(await _run(unloading, context, request.adapter_id))

    async def RollbackAdapter(
        self, request: pb.RollbackAdapterRequest, context: grpc.aio.ServicerContext
    ) -> pb.Adapter:
        def roll_back() -> AdapterInfo:
            return self._engine().rollback_adapter(request.adapter_id, request.version)

        return to_message(await self._admin(roll_back, request.adapter_id, context))

    async def SetCanary(
        self, request: pb.SetCanaryRequest, context: grpc.aio.ServicerContext
    ) -> pb.Adapter:
        def set_canary() -> AdapterInfo:
            if not request.HasField("weight") or not 0 <= request.weight <= 1:
                raise InvalidRequestError.of("weight", "is needed, and must be in [0, 1]")
            return self._engine().set_canary(request.adapter_id, request.weight)

        return to_message(await self._admin(set_canary, request.adapter_id, context))

    async def SetPolicy(
        self, request: pb.SetPolicyRequest, context: grpc.aio.ServicerContext
    ) -> pb.SetPolicyResponse:
        who = caller()

        def set_policy() -> AdapterInfo | None:
            if not request.adapter_id:
                raise InvalidRequestError.of(
                    "adapter_id", f"must not be empty; {ALL!r} is the default policy"
                )
            if not request.HasField("policy"):
                raise InvalidRequestError.of("policy", "is needed")
            engine, policy = self._engine(), from_policy(request.policy)
            check_policy(who, engine, request.adapter_id, policy)
            return engine.set_policy(request.adapter_id, policy, pin_share=PIN_SHARE)

        info = await self._admin(set_policy, request.adapter_id, context)
        return pb.SetPolicyResponse(adapter=to_message(info) if info else None)

    async def GetAdapter(
        self, request: pb.GetAdapterRequest, context: grpc.aio.ServicerContext
    ) -> pb.Adapter:
        def get() -> AdapterInfo:
            check_length(request.adapter_id)
            return self._engine().get_adapter(request.adapter_id)

        return await self._read(lambda: to_message(get()), context, request.adapter_id)

    async def ListAdapters(
        self, request: pb.ListAdaptersRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListAdaptersResponse:
        who = caller()

        def list_page() -> pb.ListAdaptersResponse:
            make = without_modules if request.without_modules else to_message
            return self._pages.page(who, request.page_size, request.page_token, make)

        return await self._read(list_page, context)

    async def ListDeclaredAdapters(
        self, request: pb.ListDeclaredAdaptersRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListDeclaredAdaptersResponse:
        who = caller()

        def declared() -> pb.ListDeclaredAdaptersResponse:
            adapters = [to_declared(d) for d in self._declared() if may_see(who, d)]
            return pb.ListDeclaredAdaptersResponse(adapters=adapters)

        return await self._read(declared, context)

    async def _read(
        self, work: Callable[[], T], context: grpc.aio.ServicerContext, adapter_id: str = ""
    ) -> T:
        return await _run(self._reads.run(work, caller()), context, adapter_id)

    async def _admin(
        self, work: Callable[[], T], adapter_id: str, context: grpc.aio.ServicerContext
    ) -> T:
        return await _run(self._changes.change(work, adapter_id, caller()), context, adapter_id)


async def _run(work: Awaitable[T], context: grpc.aio.ServicerContext, adapter_id: str = "") -> T:
    try:
        return await work
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        adapter = adapter_id[:MAX_ID_LENGTH]
        await errors.abort(context, error, request_id_of(context), adapter=adapter)
