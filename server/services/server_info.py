"""Service of the server: what runs here and how loaded it is."""

from __future__ import annotations

from collections.abc import Callable

import grpc
from loramux.v1 import server_pb2 as pb
from loramux.v1 import server_pb2_grpc

from lora_runtime import Engine

from .. import errors
from ..request_ids import request_id_of


class ServerInfoService(server_pb2_grpc.ServerServicer):
    """Service that answers from the engine's reports."""

    def __init__(self, engine: Callable[[], Engine], max_message_bytes: int) -> None:
        self._engine = engine
        self._max_message_bytes = max_message_bytes

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerInfo:
        try:
            engine = self._engine()
        except Exception as error:
            await errors.abort(context, error, request_id_of(context))
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
        )
