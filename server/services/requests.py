"""A message of generation as the engine's request: what is not set is not looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from loramux.v1 import inference_pb2 as pb

from lora_runtime import (
    InvalidRequestError,
    Request,
    RequestLimits,
    SamplingParams,
    WeightedAdapter,
)

from ..grpc.limits import SIZED_FRAME
from .chat_messages import to_message, to_tool_choice
from .structured import to_structured
from .template_values import to_values


def _as_it_is(value: Any) -> Any:
    return value


def _messages(messages: Any) -> tuple[Any, ...]:
    return tuple(map(to_message, messages))


def _adapters(adapters: Any) -> tuple[WeightedAdapter, ...]:
    return tuple(
        WeightedAdapter(a.adapter_id, a.weight if a.HasField("weight") else 1.0) for a in adapters
    )


def _logit_bias(bias: Any) -> tuple[tuple[int, float], ...]:
    return tuple(bias.items())


_SAMPLING: dict[str, Callable[[Any], Any]] = {
    "max_new_tokens": _as_it_is,
    "temperature": _as_it_is,
    "top_p": _as_it_is,
    "top_k": _as_it_is,
    "min_p": _as_it_is,
    "repetition_penalty": _as_it_is,
    "presence_penalty": _as_it_is,
    "frequency_penalty": _as_it_is,
    "seed": _as_it_is,
    "stop": tuple,
    "stop_token_ids": tuple,
    "ignore_eos": _as_it_is,
    "skip_special_tokens": _as_it_is,
    "logprobs": _as_it_is,
    "n": _as_it_is,
    "logit_bias": _logit_bias,
    "min_tokens": _as_it_is,
    "structured": to_structured,
}
_REQUEST: dict[str, Callable[[Any], Any]] = {
    "prompt": _as_it_is,
    "token_ids": tuple,
    "messages": _messages,
    "adapter_id": _as_it_is,
    "adapters": _adapters,
    "priority": _as_it_is,
    "cache_salt": _as_it_is,
    "continue_final_message": _as_it_is,
    "chat_template_kwargs": to_values,
    "tools": tuple,
    "documents": tuple,
    "tool_choice": to_tool_choice,
    "parallel_tool_calls": _as_it_is,
    "parse_answer": _as_it_is,
}
"""How a field that is set becomes one of Request; the others of a message are that class's defaults."""


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
    given = {field.name: value for field, value in message.ListFields()}
    (limits or RequestLimits()).check(lambda field: _count(field, given))
    if given.get("request_id", request_id) != request_id:
        raise InvalidRequestError.of("request_id", "must be at most 128 visible ASCII characters")
    sampling = {name: make(given[name]) for name, make in _SAMPLING.items() if name in given}
    fields = {name: make(given[name]) for name, make in _REQUEST.items() if name in given}
    if not ("token_ids" in given or "messages" in given):
        # proto3 has no "set but empty" here: with no other input it is an empty prompt.
        fields.setdefault("prompt", "")
    return Request(
        sampling=SamplingParams(**sampling) if sampling else SamplingParams(),
        request_id=request_id,
        timeout_s=timeout_s,
        **fields,
    )


def _count(field: str, given: Mapping[str, Any]) -> int:
    """Entries of a field; of a structured answer, its bytes."""
    if field not in given:
        return 0
    if field == "structured":
        return max(0, given[field].ByteSize() - SIZED_FRAME)
    return len(given[field])
