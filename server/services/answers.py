"""Answers of generation as messages."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain, groupby
from typing import Any

from loramux.v1 import inference_pb2 as pb

from lora_runtime import (
    AdapterUse,
    FinishReason,
    Generation,
    RequestHandle,
    TokenEvent,
    TokenLogprob,
)

_REASONS = {
    FinishReason.EOS: pb.FINISH_REASON_EOS,
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}
_SLICE = 64
"""Tokens with logprobs after which others get the interpreter."""
_PAUSE_S = 1e-4


def to_response(done: Generation, pause_s: float = 0) -> pb.GenerateResponse:
    """Make the whole answer. On a thread with a pause now and then: many logprobs take a second, in
    which neither the event loop nor a step should wait for the interpreter."""
    answer = pb.GenerateResponse(
        request_id=done.request_id,
        adapter_id=done.adapter_id,
        adapter_version=done.adapter_version,
        text=done.text,
        adapters=to_uses(done.adapters),
    )
    for c in done.choices:
        choice = answer.choices.add(
            index=c.index,
            text=c.text,
            token_ids=c.token_ids,
            finish_reason=_REASONS[c.finish_reason],
            usage=pb.Usage(**vars(c.usage)),
            timings=pb.Timings(**vars(c.timings)),
            **_stopped_by(c.stopped_by),
        )
        if c.message is not None:
            choice.content = c.message.content
            choice.reasoning_content = c.message.reasoning_content
            choice.tool_calls.extend(
                pb.ToolCall(id=call.id, name=call.name, arguments=str(call.arguments))
                for call in c.message.tool_calls
            )
        for start in range(0, len(c.logprobs), _SLICE):
            choice.logprobs.extend(_logprob(p) for p in c.logprobs[start : start + _SLICE])
            if pause_s:
                time.sleep(pause_s)
    return answer


def to_response_in_slices(done: Generation) -> pb.GenerateResponse:
    return to_response(done, _PAUSE_S)


def joined(events: Sequence[TokenEvent]) -> list[TokenEvent]:
    """Put the events of a choice that wait together into one, so that they take one message.

    Those with a message of their own (`parse_answer`) stay as they are. The order is kept within a
    choice, not between choices.
    """
    if len(events) == 1:
        return list(events)
    choices: dict[int, list[TokenEvent]] = {}
    for event in events:
        choices.setdefault(event.index, []).append(event)
    found: list[TokenEvent] = []
    for of_choice in choices.values():
        runs = groupby(of_choice, key=lambda e: e.message is None)
        for may_join, run in runs:
            found += [_sum(list(run))] if may_join else run
    return found


def _sum(events: list[TokenEvent]) -> TokenEvent:
    """Make one event of those of one choice; only the last may end it."""
    return replace(
        events[-1],
        text="".join(e.text for e in events),
        token_ids=tuple(chain.from_iterable(e.token_ids for e in events)),
        logprobs=tuple(chain.from_iterable(e.logprobs for e in events)),
    )


def to_increment(handle: RequestHandle, e: TokenEvent) -> pb.GenerateStreamResponse:
    answer = pb.GenerateStreamResponse(
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
        **_stopped_by(e.stopped_by),
    )
    if e.message is not None:
        answer.content = e.message.content
        answer.reasoning_content = e.message.reasoning_content
        answer.tool_calls.extend(pb.ToolCallDelta(**vars(call)) for call in e.message.tool_calls)
    return answer


def _stopped_by(stop: str | int | None) -> dict[str, Any]:
    if stop is None:
        return {}
    return {"stop_string" if isinstance(stop, str) else "stop_token_id": stop}


def to_uses(adapters: Iterable[AdapterUse]) -> list[pb.AdapterUse]:
    return [pb.AdapterUse(**vars(use)) for use in adapters]


def _logprob(p: TokenLogprob) -> pb.TokenLogprob:
    return pb.TokenLogprob(
        token_id=p.token_id,
        logprob=p.logprob,
        top=[pb.TokenLogprob(token_id=token, logprob=value) for token, value in p.top],
    )
