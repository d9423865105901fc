"""Service of inference: Generate and GenerateStream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
from loramux.v1 import inference_pb2 as pb
from loramux.v1 import inference_pb2_grpc

from lora_runtime import (
    MAX_ID_LENGTH,
    Engine,
    RequestHandle,
)

from .. import errors
from ..auth.interceptor import caller
from ..operations.answer_size import QUICK_ENTRIES, entries
from ..operations.submission import Submission
from ..request_ids import request_id_of
from ..threads import Threads
from .answers import joined, to_increment, to_response, to_response_in_slices, to_uses
from .requests import to_request

_AT_ONCE = 64
"""Events of a stream that are taken together at most."""
_NAMES = 8
"""Adapters of a refused request that its line in the log names."""


class InferenceService(inference_pb2_grpc.InferenceServicer):
    """Service of inference.

    Each call owns one RequestHandle, and cancels it however the call ends.
    """

    def __init__(
        self,
        engine: Callable[[], Engine],
        submission: Submission,
        threads: Threads,
        max_message_bytes: int,
    ) -> None:
        self._engine, self._submission, self._threads = engine, submission, threads
        self._max_message_bytes = max_message_bytes

    async def Generate(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> pb.GenerateResponse:
        async with self._request(request, context, self._max_message_bytes) as handle:
            done = await handle.aresult()
            if entries(done) <= QUICK_ENTRIES:
                return to_response(done)
            return await self._threads.answering.run(lambda: to_response_in_slices(done))

    async def GenerateStream(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        async with self._request(request, context) as handle:
            adapters = handle.adapters
            # One event each, as long as the client and this loop keep up; else what waits together.
            async for events in handle.batches(_AT_ONCE):
                for event in joined(events):
                    answer = to_increment(handle, event)
                    answer.adapters.extend(to_uses(adapters))
                    adapters = ()  # the first message only
                    yield answer

    @asynccontextmanager
    async def _request(
        self,
        message: pb.GenerateRequest,
        context: grpc.aio.ServicerContext,
        max_bytes: int | None = None,
    ) -> AsyncIterator[RequestHandle]:
        """Give a submitted request, cancelled however the block ends; errors end the call.

        `max_bytes`: the most that its answer as a whole may have.
        """
        handle: RequestHandle | None = None
        # Before anything can be refused: a refusal is looked for by its id.
        request_id = request_id_of(context, message.request_id)
        try:
            request = to_request(
                message, request_id, context.time_remaining(), self._engine().request_limits
            )
            handle = await self._submission.submit(
                request, caller(), context.time_remaining, max_bytes
            )
            del request
            yield handle
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:
            refused = {"adapter": _adapter(message)} if handle is None else {}
            await errors.abort(context, error, request_id, **refused)
        finally:
            if handle is not None:
                handle.cancel()


def _adapter(message: pb.GenerateRequest) -> str:
    """Adapter, or adapters, as a line of the log has room for."""
    names = [a.adapter_id for a in message.adapters[:_NAMES]] or [message.adapter_id]
    return "+".join(names)[:MAX_ID_LENGTH]
