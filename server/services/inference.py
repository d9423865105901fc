"""Service of inference: Generate and GenerateStream."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import TypeVar

import grpc
from loramux.v1 import inference_pb2 as pb
from loramux.v1 import inference_pb2_grpc

from lora_runtime import (
    MAX_ID_LENGTH,
    AdapterUse,
    ChatMessage,
    Choice,
    Engine,
    FinishReason,
    Generation,
    InvalidRequestError,
    Request,
    RequestHandle,
    SamplingParams,
    TokenEvent,
    TokenLogprob,
    WeightedAdapter,
)

from .. import errors
from ..request_ids import request_id_of

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
)
_REASONS = {
    FinishReason.EOS: pb.FINISH_REASON_EOS,
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}
_MANY_ENTRIES = 2000
"""Tokens and logprobs whose conversion takes the event loop some milliseconds."""
T = TypeVar("T", bound=RequestHandle | Future)


class InferenceService(inference_pb2_grpc.InferenceServicer):
    """Service of inference.

    Each call owns one RequestHandle, and cancels it however the call ends.
    """

    def __init__(self, engine: Callable[[], Engine]) -> None:
        self._engine = engine

    async def Generate(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> pb.GenerateResponse:
        async with self._request(request, context) as handle:
            done = await handle.aresult()
            if sum(map(_entries, done.choices)) < _MANY_ENTRIES:
                return _to_response(done)
            return await asyncio.to_thread(_to_response, done)

    async def GenerateStream(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        async with self._request(request, context) as handle:
            adapters = handle.adapters
            async for event in handle:
                answer = _to_increment(handle, event)
                answer.adapters.extend(_uses(adapters))
                adapters = ()  # the first message only
                yield answer

    @asynccontextmanager
    async def _request(
        self, message: pb.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[RequestHandle]:
        """Give a submitted request, cancelled however the block ends; errors end the call."""
        handle: RequestHandle | None = None
        # Before anything can be refused: a refusal is looked for by its id.
        request_id = request_id_of(context, message.request_id)
        try:
            handle = await self._submit(message, request_id, context)
            yield handle
        except Exception as error:
            refused = {"adapter": _adapter(message)} if handle is None else {}
            await errors.abort(context, error, request_id, **refused)
        finally:
            if handle is not None:
                handle.cancel()

    async def _submit(
        self, message: pb.GenerateRequest, request_id: str, context: grpc.aio.ServicerContext
    ) -> RequestHandle:
        """Submit off the event loop: tokenizing takes milliseconds.

        An adapter that was never read here may take seconds or more: its reading is not on the
        threads for submission.
        """
        engine = self._engine()
        request = to_request(message, request_id, context.time_remaining())

        def submit_if_prepared() -> RequestHandle | Future[None]:
            reading = engine.prepare(request)
            return engine.submit(request) if reading.done() else reading

        begun = await _in_thread(submit_if_prepared)
        if isinstance(begun, RequestHandle):
            return begun
        await asyncio.wrap_future(begun)
        late = dataclasses.replace(request, timeout_s=context.time_remaining())
        return await _in_thread(lambda: engine.submit(late))


def to_request(message: pb.GenerateRequest, request_id: str, timeout_s: float | None) -> Request:
    """Turn a message into a request, under `request_id`.

    Raises InvalidRequestError if the message has an id that cannot be logged safely.
    """
    if message.request_id and message.request_id != request_id:
        raise InvalidRequestError.of("request_id", "must be at most 128 visible ASCII characters")
    sampling = {name: getattr(message, name) for name in _OPTIONAL if message.HasField(name)}
    return Request(
        # proto3 has no "set but empty" here: with no other input it is an empty prompt.
        prompt=message.prompt
        if message.prompt or not (message.token_ids or message.messages)
        else None,
        token_ids=tuple(message.token_ids) or None,
        messages=tuple(ChatMessage(m.role, m.content) for m in message.messages) or None,
        adapter_id=message.adapter_id,
        adapters=tuple(
            WeightedAdapter(a.adapter_id, a.weight if a.HasField("weight") else 1.0)
            for a in message.adapters
        ),
        priority=message.priority,
        sampling=SamplingParams(
            **sampling,
            stop=tuple(message.stop),
            stop_token_ids=tuple(message.stop_token_ids),
            ignore_eos=message.ignore_eos,
        ),
        request_id=request_id,
        timeout_s=timeout_s,
    )


def _adapter(message: pb.GenerateRequest) -> str:
    """Adapter, or adapters, as a line of the log has room for."""
    names = [a.adapter_id for a in message.adapters] or [message.adapter_id]
    return "+".join(names)[:MAX_ID_LENGTH]


async def _in_thread(work: Callable[[], T]) -> T:
    """Run `work` on a thread; cancel what it gives if the call is gone before it is done."""
    working = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        working.add_done_callback(_cancel_late)
        raise


def _cancel_late(working: asyncio.Future[T]) -> None:
    if not working.cancelled() and working.exception() is None:
        working.result().cancel()


def _entries(choice: Choice) -> int:
    """Tokens and logprobs that an answer repeats of a choice."""
    return len(choice.token_ids) + sum(1 + len(p.top) for p in choice.logprobs)


def _to_response(done: Generation) -> pb.GenerateResponse:
    return pb.GenerateResponse(
        request_id=done.request_id,
        adapter_id=done.adapter_id,
        adapter_version=done.adapter_version,
        text=done.text,
        choices=[
            pb.Choice(
                index=c.index,
                text=c.text,
                token_ids=c.token_ids,
                logprobs=[_logprob(p) for p in c.logprobs],
                finish_reason=_REASONS[c.finish_reason],
                usage=pb.Usage(**vars(c.usage)),
                timings=pb.Timings(**vars(c.timings)),
            )
            for c in done.choices
        ],
        adapters=_uses(done.adapters),
    )


def _to_increment(handle: RequestHandle, e: TokenEvent) -> pb.GenerateStreamResponse:
    return pb.GenerateStreamResponse(
        request_id=handle.request_id,
        adapter_id=handle.request.adapter_id,
        adapter_version=handle.adapter_version,
        index=e.index,
        text=e.text,
        token_ids=e.token_ids,
        logprobs=[_logprob(p) for p in e.logprobs],
        finish_reason=_REASONS[e.finish_reason]
        if e.finish_reason
        else pb.FINISH_REASON_UNSPECIFIED,
        usage=pb.Usage(**vars(e.usage)) if e.usage else None,
        timings=pb.Timings(**vars(e.timings)) if e.timings else None,
    )


def _uses(adapters: Iterable[AdapterUse]) -> list[pb.AdapterUse]:
    return [pb.AdapterUse(**vars(use)) for use in adapters]


def _logprob(p: TokenLogprob) -> pb.TokenLogprob:
    return pb.TokenLogprob(
        token_id=p.token_id,
        logprob=p.logprob,
        top=[pb.TokenLogprob(token_id=token, logprob=value) for token, value in p.top],
    )
