"""Service of the server: what runs here and how loaded it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
from loramux.v1 import server_pb2 as pb
from loramux.v1 import server_pb2_grpc

from lora_runtime import Engine

from .. import errors
from ..auth.interceptor import caller
from ..auth.tokens import Caller
from ..lifecycle.readiness import Readiness, ServerState
from ..operations.reads import Reads
from ..request_ids import request_id_of
from .adapter_messages import may_see, to_declared

_STATES: dict[ServerState, pb.ServerState] = {
    ServerState.NOT_READY: pb.SERVER_STATE_NOT_READY,
    ServerState.READY: pb.SERVER_STATE_READY,
    ServerState.STALLED: pb.SERVER_STATE_STALLED,
    ServerState.DRAINING: pb.SERVER_STATE_DRAINING,
    ServerState.FAILED: pb.SERVER_STATE_FAILED,
}
_WAITING = 20


class ServerInfoService(server_pb2_grpc.ServerServicer):
    """Service that answers from the engine's reports."""

    def __init__(
        self,
        engine: Callable[[], Engine],
        readiness: Readiness,
        max_message_bytes: int,
        reads: Reads,
    ) -> None:
        self._engine = engine
        self._readiness = readiness
        self._max_message_bytes = max_message_bytes
        self._reads = reads

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerInfo:
        who = caller()
        try:
            return await self._reads.run(lambda: self._info(who), who)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            await errors.abort(context, error, request_id_of(context))

    def _info(self, who: Caller) -> pb.ServerInfo:
        engine = self._engine()
        info, stats = engine.info(), engine.stats()
        limits = (
            "max_context",
            "max_adapters",
            "max_running",
            "max_waiting",
            "max_batch_tokens",
            "kv_block_size",
            "kv_blocks",
        )
        load = (
            "running",
            "waiting",
            "adapters",
            "adapter_bytes",
            "leases",
            "kv_blocks_used",
            "kv_blocks_cached",
            "preemptions",
            "steps",
            "registered_adapters",
            "host_adapters",
            "host_adapter_bytes",
            "loading_adapters",
        )
        return pb.ServerInfo(
            version=info.version,
            base_model=info.base_model,
            architecture=info.architecture,
            device=info.device,
            dtype=info.dtype,
            kernels=info.kernels,
            num_parameters=info.num_parameters,
            vocab_size=info.vocab_size,
            limits=pb.Limits(
                **{name: getattr(info, name) for name in limits},
                max_message_bytes=self._max_message_bytes,
            ),
            load=pb.Load(**{name: getattr(stats, name) for name in load}),
            memory=pb.Memory(**vars(info.memory)),
            readiness=self._ready(who),
            notes=info.notes,
        )

    def _ready(self, who: Caller) -> pb.Readiness:
        waiting = [s for s in self._readiness.waiting_for() if may_see(who, s)]
        return pb.Readiness(
            state=_STATES.get(self._readiness.state),
            waiting_for=[to_declared(status) for status in waiting[:_WAITING]],
            waiting_for_count=len(waiting),
        )
