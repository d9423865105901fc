"""Fields of requests by name, for type checkers: the messages of protos/ say what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from loramux.v1 import adapters_pb2, inference_pb2

Fields = Mapping[str, Any]
"""A message's fields by name, in place of the message."""


class GenerateFields(TypedDict, total=False):
    """Fields of GenerateRequest."""

    adapter_id: str
    prompt: str
    token_ids: Sequence[int]
    messages: Sequence[inference_pb2.ChatMessage | Fields]
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    logprobs: int
    n: int
    request_id: str
    adapters: Sequence[inference_pb2.WeightedAdapter | Fields]
    priority: int
    cache_salt: str
    skip_special_tokens: bool
    continue_final_message: bool
    chat_template_kwargs: Fields
    logit_bias: Mapping[int, float]
    min_tokens: int
    structured: inference_pb2.StructuredAnswer | Fields
    tools: Sequence[str]
    documents: Sequence[str]
    tool_choice: inference_pb2.ToolChoice | Fields
    parallel_tool_calls: bool
    parse_answer: bool


class LoadFields(TypedDict, total=False):
    """Fields of LoadAdapterRequest."""

    adapter_id: str
    path: str
    source: str
    canary_weight: float
    policy: adapters_pb2.Policy | Fields
    allow_unknown_fields: bool


class PolicyFields(TypedDict, total=False):
    """Fields of Policy."""

    weight: float
    max_running: int
    max_waiting: int
    tokens_per_minute: int
    pinned: bool
