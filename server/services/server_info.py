"""Service of the server: what runs here and how loaded it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import grpc
from loramux.v1 import server_pb2 as pb
from loramux.v1 import server_pb2_grpc

from .. import errors
from ..auth.interceptor import caller
from ..auth.tokens import Caller
from ..operations.reads import Reads
from ..operations.server_reports import ServerReports
from ..request_ids import request_id_of

T = TypeVar("T")


class ServerInfoService(server_pb2_grpc.ServerServicer):
    """Service that answers from the server's reports."""

    def __init__(self, reports: ServerReports, reads: Reads) -> None:
        self._reports, self._reads = reports, reads

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerInfo:
        return await self._told(self._reports.info, context)

    async def GetStatus(
        self, request: pb.GetStatusRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerStatus:
        return await self._told(self._reports.status, context)

    async def _told(self, report: Callable[[Caller], T], context: grpc.aio.ServicerContext) -> T:
        who = caller()
        try:
            return await self._reads.run(lambda: report(who), who)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            await errors.abort(context, error, request_id_of(context))
