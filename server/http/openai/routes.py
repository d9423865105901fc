"""Completions and chats: from the body to the answer, or to the stream of its increments."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from starlette.responses import Response

from lora_runtime import (
    Generation,
    InvalidRequestError,
    Request,
    RequestHandle,
)

from ...operations.answer_size import QUICK_ENTRIES, answer_bytes, entries
from ...request_ids import is_safe
from ..bodies.unknown import UNKNOWN
from ..calls import Call as HttpCall
from .answers import stream
from .answers.whole import Head, Running, echo, whole
from .requests.body import Call, read
from .requests.fields import CHAT, COMPLETION, Form

_PAUSE_S = 1e-4
Answered = Sequence[tuple[Running, Generation]]


async def complete(http: HttpCall) -> Response:
    """Answer a completion."""
    return await _answer(http, COMPLETION)


async def chat(http: HttpCall) -> Response:
    """Answer a chat."""
    return await _answer(http, CHAT)


async def _answer(http: HttpCall, form: Form) -> Response:
    call, head = await _read(http, form, await http.json())
    if call.options.stream:
        handles = [await http.submit(one) for one in call.requests]
        return await stream.begun(http, call, head, await _running(http, call, handles))
    share = http.parts.max_message_bytes // len(call.requests)
    handles = [await http.submit(one, share) for one in _fitting(http, call, share)]
    running = await _running(http, call, handles)
    done = await asyncio.gather(*(handle.aresult() for handle in handles))
    return await _whole(http, call, head, list(zip(running, done, strict=True)))


async def _read(http: HttpCall, form: Form, body: Mapping[str, Any]) -> tuple[Call, Head]:
    engine = http.parts.engine()
    http.fields = {name: name for name in form.by_name}  # `read` refuses by what was sent
    call = read(form, body, engine.request_limits, engine.max_context)
    del body
    http.fields = call.names
    if given := call.options.request_id:
        if not is_safe(given):
            raise InvalidRequestError.of(
                "request_id", "must be at most 128 visible ASCII characters"
            )
        http.request_id = given
    UNKNOWN.note(form.name, call.unknown)
    names = http.parts.names
    http.adapter = adapter = names.adapter_of(call.options.model)
    requests = tuple(
        replace(one, adapter_id=adapter, request_id=request_id)
        for one, request_id in zip(call.requests, _ids(http.request_id, call), strict=True)
    )
    head = Head(form.prefix + http.request_id, int(time.time()), names.model_of(adapter))
    return replace(call, requests=requests), head


def _ids(request_id: str, call: Call) -> list[str]:
    """Ids of the engine's requests: the call's own, and its number behind it if there are several."""
    if len(call.requests) == 1:
        return [request_id]
    return [f"{request_id}-{i}" for i in range(len(call.requests))]


def _fitting(http: HttpCall, call: Call, most: int) -> Sequence[Request]:
    """Requests whose answers fit into `most` bytes, where the caller has set no other length: then
    an answer ends there."""
    if call.max_tokens_given:
        return call.requests
    first, vocab_size = call.requests[0], http.parts.engine().base.vocab_size
    params = first.sampling
    tokens = max(1, most // answer_bytes(params, 1, vocab_size, first.parse_answer))
    if tokens < params.max_new_tokens:
        params = replace(params, max_new_tokens=tokens)
    return [replace(one, sampling=params) for one in call.requests]


async def _running(
    http: HttpCall, call: Call, handles: Sequence[RequestHandle]
) -> Sequence[Running]:
    """Find what is to be echoed. Raises InvalidRequestError where that is too much: each choice has
    it again."""
    if not call.options.echo:
        return [Running(handle) for handle in handles]
    echoes = await http.parts.threads.answering.run(lambda: [echo(one) for one in handles])
    most = http.parts.max_message_bytes
    if sum(map(len, echoes)) * call.requests[0].sampling.n > most:
        raise InvalidRequestError.of("echo", f"the answer may have over {most} bytes")
    return [Running(*pair) for pair in zip(handles, echoes, strict=True)]


async def _whole(http: HttpCall, call: Call, head: Head, answered: Answered) -> Response:
    if sum(entries(done) for _, done in answered) <= QUICK_ENTRIES:
        text = "".join(whole(call, head, answered))
    else:
        text = await http.parts.threads.answering.run(lambda: _in_slices(call, head, answered))
    return Response(text, media_type="application/json")


def _in_slices(call: Call, head: Head, answered: Answered) -> str:
    """Write with a pause now and then, in which the event loop and the steps get the interpreter."""
    parts = []
    for part in whole(call, head, answered):
        parts.append(part)
        time.sleep(_PAUSE_S)
    return "".join(parts)
