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
    AdapterInUseError,
    Engine,
    InvalidRequestError,
)

from .. import errors
from ..auth.interceptor import caller
from ..auth.shares import PIN_SHARE, check_policy
from ..auth.tokens import ANYONE
from ..declared import DeclaredStatus
from ..locations import Locations, adapter_id_of
from ..request_ids import request_id_of
from ..threads import Threads, Turns
from .adapter_messages import from_policy, may_see, to_declared, to_message
from .pages import IdsInScope, page

_MAX_UNLOAD_WAIT_S = 3600
_READS_EACH = 2
"""Threads for reports that one caller may have at once."""
_LOADS_EACH = 16
"""Threads for loads that one caller may have at once: half of them."""
_CHANGES_EACH = 8
"""Threads for changes that one token may have at once, and as many for unloads that wait: that may
be for an hour each."""
_ALL = "*"
T = TypeVar("T")


class AdaptersService(adapters_pb2_grpc.AdaptersServicer):
    """Service of adapters; calls that change something run on threads of their own, and of these
    unloads that wait on others."""

    def __init__(
        self,
        engine: Callable[[], Engine],
        locations: Locations,
        declared: Callable[[], Iterable[DeclaredStatus]],
        max_message_bytes: int,
        threads: Threads,
    ) -> None:
        self._engine = engine
        self._locations = locations
        self._declared = declared
        self._max_message_bytes = max_message_bytes
        self._threads = threads
        self._turns = Turns(_READS_EACH)
        self._load_turns = Turns(_LOADS_EACH)
        self._changes, self._unloads = Turns(_CHANGES_EACH), Turns(_CHANGES_EACH)
        self._ids = IdsInScope()
        self._unloading: set[str] = set()
        """Ids that an unload waits for."""

    async def LoadAdapter(
        self, request: pb.LoadAdapterRequest, context: grpc.aio.ServicerContext
    ) -> pb.Adapter:
        who = caller()

        def load() -> AdapterInfo:
            engine, source, adapter_id = (
                self._engine(),
                self._locations.resolve(request),
                adapter_id_of(request),
            )
            if adapter_id == _ALL:
                raise InvalidRequestError.of("adapter_id", f"{_ALL!r} stands for all adapters")
            if not 0 <= request.canary_weight < 1:
                raise InvalidRequestError.of("canary_weight", "must be in [0, 1)")
            policy = from_policy(request.policy) if request.HasField("policy") else None
            if policy is not None:
                check_policy(who, engine, adapter_id, policy)
            # The roots once more, for links that are changed between the look and the reading.
            return engine.load_adapter(
                source,
                adapter_id,
                canary_weight=request.canary_weight,
                policy=policy,
                roots=self._locations.roots,
                pin_share=PIN_SHARE,
                allow_unknown_fields=request.allow_unknown_fields,
            )

        async def run() -> AdapterInfo:
            _check_length(request.adapter_id)
            async with self._load_turns.taken(who.name):
                return await self._threads.loading.run(load)

        return to_message(await _run(run(), context, request.adapter_id))

    async def UnloadAdapter(
        self, request: pb.UnloadAdapterRequest, context: grpc.aio.ServicerContext
    ) -> pb.Adapter:
        def unload() -> AdapterInfo:
            if not 0 <= request.timeout_s <= _MAX_UNLOAD_WAIT_S:
                raise InvalidRequestError.of("timeout_s", f"must be in [0, {_MAX_UNLOAD_WAIT_S}]")
            return self._engine().unload_adapter(request.adapter_id, request.timeout_s)

        waits = request.timeout_s > 0
        return to_message(await self._admin(unload, request.adapter_id, context, waits))

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
                    "adapter_id", f"must not be empty; {_ALL!r} is the default policy"
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
            _check_length(request.adapter_id)
            return self._engine().get_adapter(request.adapter_id)

        return await self._read(lambda: to_message(get()), context, request.adapter_id)

    async def ListAdapters(
        self, request: pb.ListAdaptersRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListAdaptersResponse:
        who = caller()

        def list_page() -> pb.ListAdaptersResponse:
            engine = self._engine()
            ids = self._ids.of(who, engine.adapter_ids())
            return page(
                ids,
                engine.get_adapter,
                request.page_size,
                request.page_token,
                self._max_message_bytes,
            )

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
        """Run `work`, which takes locks, on a thread. One caller's calls wait for one another."""

        async def run() -> T:
            async with self._turns.taken(caller().name):
                return await self._threads.reading.run(work)

        return await _run(run(), context, adapter_id)

    async def _admin(
        self,
        work: Callable[[], T],
        adapter_id: str,
        context: grpc.aio.ServicerContext,
        waits: bool = False,
    ) -> T:
        async def run() -> T:
            _check_length(adapter_id)
            keys = [] if (who := caller()) is ANYONE else [who.name]
            if waits:
                async with self._unloads.taken(*keys):
                    return await self._unload(work, adapter_id)
            async with self._changes.taken(*keys):
                return await self._threads.administration.run(work)

        return await _run(run(), context, adapter_id)

    async def _unload(self, work: Callable[[], T], adapter_id: str) -> T:
        """Unload on another thread, one for each id: more would take all threads and change
        nothing."""
        if adapter_id in self._unloading:
            raise AdapterInUseError(f"adapter {adapter_id!r} is being unloaded already")
        running = self._threads.unloading.submit(work)
        self._unloading.add(adapter_id)
        running.add_done_callback(lambda _: self._unloading.discard(adapter_id))
        try:
            return await asyncio.wrap_future(running)
        finally:
            del running  # see Pool.run


def _check_length(adapter_id: str) -> None:
    if len(adapter_id) > MAX_ID_LENGTH:
        raise InvalidRequestError.of("adapter_id", f"must have at most {MAX_ID_LENGTH} characters")


async def _run(work: Awaitable[T], context: grpc.aio.ServicerContext, adapter_id: str = "") -> T:
    try:
        return await work
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        adapter = adapter_id[:MAX_ID_LENGTH]
        await errors.abort(context, error, request_id_of(context), adapter=adapter)
