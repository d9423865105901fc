"""A stand-in for a server, which notes what it is asked and refuses what a test says."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from loramux.v1 import (
    adapters_pb2,
    adapters_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    server_pb2,
    server_pb2_grpc,
)

Trailers = tuple[tuple[str, str], ...]
DO_NOT_RETRY: Trailers = (("grpc-retry-pushback-ms", "-1"),)


@dataclass
class Asked:
    """A call as it came."""

    rpc: str
    metadata: dict[str, str | bytes]
    seconds_left: float | None
    peer: str


@dataclass
class StandIn:
    """Answers with `events` messages; `refusals` come first, one a call."""

    target: str = ""
    events: int = 3
    asked: list[Asked] = field(default_factory=list)
    refusals: deque[tuple[grpc.StatusCode, Trailers]] = field(default_factory=deque)
    holds: asyncio.Event | None = None
    """Where there is one: streams wait for it behind their first message."""
    breaks: bool = False
    """Streams are refused behind their first message."""
    ended: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    """How streams ended."""

    def refuse(self, code: grpc.StatusCode, times: int = 1, trailers: Trailers = ()) -> None:
        self.refusals.extend([(code, trailers)] * times)

    async def meet(self, rpc: str, context: grpc.aio.ServicerContext) -> None:
        metadata = dict(context.invocation_metadata() or ())
        self.asked.append(Asked(rpc, metadata, context.time_remaining(), context.peer()))
        if self.refusals:
            code, trailers = self.refusals.popleft()
            await context.abort(code, "refused", trailers)

    async def answer(self, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        try:
            for index in range(self.events):
                yield inference_pb2.GenerateStreamResponse(text="x", token_ids=[index])
                if self.breaks:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "broken")
                if self.holds is not None:
                    await self.holds.wait()
        except asyncio.CancelledError:
            self.ended.put_nowait("cancelled")
            raise
        self.ended.put_nowait("whole")


class _Inference(inference_pb2_grpc.InferenceServicer):
    def __init__(self, stand_in: StandIn) -> None:
        self._in = stand_in

    async def Generate(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        await self._in.meet("Generate", context)
        if self._in.holds is not None:
            await self._in.holds.wait()
        return inference_pb2.GenerateResponse(text="x" * self._in.events)

    async def GenerateStream(
        self, request: Any, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[Any]:
        await self._in.meet("GenerateStream", context)
        async for event in self._in.answer(context):
            yield event


class _Adapters(adapters_pb2_grpc.AdaptersServicer):
    def __init__(self, stand_in: StandIn) -> None:
        self._in = stand_in

    async def RollbackAdapter(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        await self._in.meet("RollbackAdapter", context)
        return adapters_pb2.Adapter(adapter_id=request.adapter_id)

    async def ListAdapters(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """Two pages of one adapter each."""
        await self._in.meet("ListAdapters", context)
        following = "" if request.page_token else "second"
        return adapters_pb2.ListAdaptersResponse(
            adapters=[adapters_pb2.Adapter(adapter_id=request.page_token or "first")],
            next_page_token=following,
        )


class _Server(server_pb2_grpc.ServerServicer):
    def __init__(self, stand_in: StandIn) -> None:
        self._in = stand_in

    async def GetServerInfo(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        await self._in.meet("GetServerInfo", context)
        return server_pb2.ServerInfo(version="stand-in")


@asynccontextmanager
async def standing_in(
    port: int = 0,
    credentials: grpc.ServerCredentials | None = None,
    options: tuple[tuple[str, int], ...] = (),
) -> AsyncIterator[StandIn]:
    """A stand-in on 127.0.0.1."""
    stand_in = StandIn()
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0), *options))
    inference_pb2_grpc.add_InferenceServicer_to_server(_Inference(stand_in), server)
    adapters_pb2_grpc.add_AdaptersServicer_to_server(_Adapters(stand_in), server)
    server_pb2_grpc.add_ServerServicer_to_server(_Server(stand_in), server)
    where = f"127.0.0.1:{port}"
    taken = (
        server.add_secure_port(where, credentials)
        if credentials
        else server.add_insecure_port(where)
    )
    stand_in.target = f"127.0.0.1:{taken}"
    await server.start()
    try:
        yield stand_in
    finally:
        await server.stop(None)
