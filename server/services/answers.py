"""Answers of generation as messages, and how large they can become."""

from __future__ import annotations

import time
from collections.abc import Iterable

from loramux.v1 import inference_pb2 as pb

from lora_runtime import (
    AdapterUse,
    FieldViolation,
    FinishReason,
    Generation,
    InvalidRequestError,
    RequestHandle,
    SamplingParams,
    TokenEvent,
    TokenLogprob,
)

_REASONS = {
    FinishReason.EOS: pb.FINISH_REASON_EOS,
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}
_TEXT_BYTES = 6
"""Bytes of text of a token: more than those of long answers have, on average."""
_LOGPROB_BYTES = 6
"""Bytes of a logprob with its tag, and of the tag before its token id."""
_FRAME_BYTES = 2
"""Bytes of tag and length around a logprob."""
_SLICE = 64
"""Tokens with logprobs after which others get the interpreter."""
_PAUSE_S = 1e-4


def check_size(
    params: SamplingParams, prompt_tokens: int, max_context: int, vocab_size: int, max_bytes: int
) -> None:
    """Check that an answer fits into one message, before it is computed. Raises
    InvalidRequestError."""
    tokens = min(params.max_new_tokens, max_context - prompt_tokens)
    if answer_bytes(params, tokens, vocab_size) <= max_bytes:
        return
    text = (
        f"the answer may have over {max_bytes} bytes, a message's limit: take fewer tokens, choices "
        "or logprobs, or GenerateStream"
    )
    fields = ["max_new_tokens"] + ["n"] * (params.n > 1) + ["logprobs"] * bool(params.logprobs)
    raise InvalidRequestError([FieldViolation(field, text) for field in fields])


def answer_bytes(params: SamplingParams, tokens: int, vocab_size: int) -> int:
    """Bytes of an answer of `tokens` tokens a choice, about: only texts are not known before."""
    token_id = -(-vocab_size.bit_length() // 7)
    each = token_id + _TEXT_BYTES
    if params.logprobs is not None:
        one = token_id + _LOGPROB_BYTES + _FRAME_BYTES
        each += one * (1 + params.logprobs) + 1  # of the outer one the length has two bytes
    return params.n * tokens * each + tokens * _TEXT_BYTES  # the first choice's text comes twice


def entries(done: Generation) -> int:
    """Count tokens and logprobs: what an answer takes to be made."""
    return sum(len(c.token_ids) + sum(1 + len(p.top) for p in c.logprobs) for c in done.choices)


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
    )
    if e.message is not None:
        answer.content = e.message.content
        answer.reasoning_content = e.message.reasoning_content
        answer.tool_calls.extend(pb.ToolCallDelta(**vars(call)) for call in e.message.tool_calls)
    return answer


def to_uses(adapters: Iterable[AdapterUse]) -> list[pb.AdapterUse]:
    return [pb.AdapterUse(**vars(use)) for use in adapters]


def _logprob(p: TokenLogprob) -> pb.TokenLogprob:
    return pb.TokenLogprob(
        token_id=p.token_id,
        logprob=p.logprob,
        top=[pb.TokenLogprob(token_id=token, logprob=value) for token, value in p.top],
    )
