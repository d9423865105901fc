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
    InvalidRequestError,
    Request,
    RequestHandle,
    RequestLimits,
    SamplingParams,
    WeightedAdapter,
)

from .. import errors
from ..auth.interceptor import caller
from ..grpc.limits import SIZED_FRAME
from ..operations.answer_size import QUICK_ENTRIES, entries
from ..operations.submission import Submission
from ..request_ids import request_id_of
from ..threads import Threads
from .answers import joined, to_increment, to_response, to_response_in_slices, to_uses
from .chat_messages import to_message, to_tool_choice
from .structured import to_structured
from .template_values import to_values

_OPTIONAL = (
    "max_new_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "logprobs",
    "n",
    "skip_special_tokens",
)
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


def to_request(
    message: pb.GenerateRequest,
    request_id: str,
    timeout_s: float | None,
    limits: RequestLimits | None = None,
) -> Request:
    """Turn a message into a request, under `request_id`.

    Raises InvalidRequestError if the message has an id that cannot be logged safely, or more
    entries than `limits`: these are counted before they are made into objects.
    """
    (limits or RequestLimits()).check(lambda field: _count(message, field))
    if message.request_id and message.request_id != request_id:
        raise InvalidRequestError.of("request_id", "must be at most 128 visible ASCII characters")
    sampling = {name: getattr(message, name) for name in _OPTIONAL if message.HasField(name)}
    return Request(
        # proto3 has no "set but empty" here: with no other input it is an empty prompt.
        prompt=message.prompt
        if message.prompt or not (message.token_ids or message.messages)
        else None,
        token_ids=tuple(message.token_ids) or None,
        messages=tuple(map(to_message, message.messages)) or None,
        adapter_id=message.adapter_id,
        adapters=tuple(
            WeightedAdapter(a.adapter_id, a.weight if a.HasField("weight") else 1.0)
            for a in message.adapters
        ),
        priority=message.priority,
        cache_salt=message.cache_salt,
        sampling=SamplingParams(
            **sampling,
            stop=tuple(message.stop),
            stop_token_ids=tuple(message.stop_token_ids),
            ignore_eos=message.ignore_eos,
            logit_bias=tuple(message.logit_bias.items()),
            min_tokens=message.min_tokens,
            structured=to_structured(message),
        ),
        request_id=request_id,
        timeout_s=timeout_s,
        continue_final_message=message.continue_final_message,
        chat_template_kwargs=to_values(message.chat_template_kwargs),
        tools=tuple(message.tools),
        documents=tuple(message.documents),
        tool_choice=to_tool_choice(message.tool_choice),
        parallel_tool_calls=message.parallel_tool_calls
        or not message.HasField("parallel_tool_calls"),
        parse_answer=message.parse_answer,
    )


def _count(message: pb.GenerateRequest, field: str) -> int:
    """Entries of a field; of a structured answer, its bytes."""
    if field == "structured":
        return max(0, message.structured.ByteSize() - SIZED_FRAME)
    return len(getattr(message, field))


def _adapter(message: pb.GenerateRequest) -> str:
    """Adapter, or adapters, as a line of the log has room for."""
    names = [a.adapter_id for a in message.adapters[:_NAMES]] or [message.adapter_id]
    return "+".join(names)[:MAX_ID_LENGTH]
