"""The table of what may be sent: every field of a completion and of a chat, and what it becomes.

Names and meanings are OpenAI's, and vLLM's where OpenAI has none. What is in neither list below is
ignored and logged; what would change the answer and is not served is refused by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .inputs import ADAPTERS, PROMPT, STREAM_OPTIONS
from .kinds import (
    BIAS,
    BOOLEAN,
    INTEGER,
    NUMBER,
    OBJECT,
    STOP,
    TEXT,
    TOKEN_IDS,
    Field,
    Refused,
    Unused,
    one_of,
)
from .messages import DOCUMENTS, MESSAGES, TOOL_CHOICE, TOOLS
from .structured import (
    CHOICE,
    GRAMMAR,
    JSON_SCHEMA,
    REGEX,
    RESPONSE_FORMAT,
    STRUCTURED_OUTPUTS,
)

_SEEDS = 1 << 63
_LEAST_TOP_P = 1e-9
"""What the engine, which takes no 0, gets for it: the most likely token is left."""


def _seed(value: int) -> int | None:
    """Seed as the engine has it; -1 is none, as in vLLM, and other negative ones are as good as any."""
    return None if value == -1 else value % _SEEDS if value < 0 else value


def _top_p(value: float) -> float:
    return value or _LEAST_TOP_P


def _top_k(value: int) -> int:
    return 0 if value == -1 else value


_SAMPLING = (
    Field("temperature", NUMBER, "sampling.temperature"),
    Field("top_p", NUMBER, "sampling.top_p", _top_p),
    Field("top_k", INTEGER, "sampling.top_k", _top_k),
    Field("min_p", NUMBER, "sampling.min_p"),
    Field("repetition_penalty", NUMBER, "sampling.repetition_penalty"),
    Field("presence_penalty", NUMBER, "sampling.presence_penalty"),
    Field("frequency_penalty", NUMBER, "sampling.frequency_penalty"),
    Field("seed", INTEGER, "sampling.seed", _seed),
    Field("stop", STOP, "sampling.stop"),
    Field("stop_token_ids", TOKEN_IDS, "sampling.stop_token_ids"),
    Field("ignore_eos", BOOLEAN, "sampling.ignore_eos"),
    Field("skip_special_tokens", BOOLEAN, "sampling.skip_special_tokens"),
    Field("n", INTEGER, "sampling.n"),
    Field("max_tokens", INTEGER, "sampling.max_new_tokens"),
    Field("max_completion_tokens", INTEGER, "sampling.max_new_tokens"),
    Field("logit_bias", BIAS, "sampling.logit_bias"),
    Field("min_tokens", INTEGER, "sampling.min_tokens"),
    Field("response_format", RESPONSE_FORMAT, "sampling.structured"),
    Field("structured_outputs", STRUCTURED_OUTPUTS, "sampling.structured"),
    # The same in older releases of vLLM.
    Field("guided_json", JSON_SCHEMA, "sampling.structured"),
    Field("guided_regex", REGEX, "sampling.structured"),
    Field("guided_choice", CHOICE, "sampling.structured"),
    Field("guided_grammar", GRAMMAR, "sampling.structured"),
)
_BY_MODEL = "model names an adapter, adapters several"
_REQUEST = (
    Field("model", TEXT, "option.model"),
    Field("adapters", ADAPTERS, "request.adapters"),
    # vLLM counts downwards: the lowest goes first.
    Field("priority", INTEGER, "request.priority", lambda value: -value),
    Field("request_id", TEXT, "option.request_id"),
    Field("cache_salt", TEXT, "request.cache_salt"),
    Field("stream", BOOLEAN, "option.stream"),
    Field("stream_options", STREAM_OPTIONS, "option.stream_options"),
    Field("echo", BOOLEAN, "option.echo"),
    Field("return_token_ids", BOOLEAN, "option.return_token_ids"),
    Field("return_tokens_as_token_ids", BOOLEAN, "option.return_tokens_as_token_ids"),
)
_NOT_SERVED = (
    # Other servers' ways to name an adapter: without it the answer would be another model's.
    *(Refused(name, hint=_BY_MODEL) for name in ("adapter_id", "adapter_source", "lora_path")),
    Refused("lora", ([],), _BY_MODEL),
    Refused("allowed_token_ids", ([],)),
    Refused("bad_words", ([],)),
    Refused("include_stop_str_in_output", (False,)),
    Refused("ec_transfer_params"),
    Refused("guided_whitespace_pattern"),
    Refused("kv_transfer_params"),
    Refused("length_penalty", (1, 1.0), "it belongs to beam search"),
    Refused("logits_processors", ([],)),
    Refused("logprob_token_ids"),
    Refused("prompt_logprobs"),
    Refused("repetition_detection"),
    Refused("spaces_between_special_tokens", (True,)),
    Refused("thinking_token_budget", (-1,)),
    Refused("truncate_prompt_tokens", hint="a prompt that is too long is refused"),
    Refused("use_beam_search", (False,)),
    Refused("vllm_xargs", ({},)),
    Refused("watermarking", (False,)),
)
_WITHOUT_EFFECT = tuple(
    Unused(name)
    for name in (
        *("guided_decoding_backend", "metadata", "mm_payload", "prompt_cache_key"),
        *("prompt_cache_options", "prompt_cache_retention", "return_mm_kwargs"),
        *("return_token_offsets", "routed_experts_prompt_start", "safety_identifier"),
        *("service_tier", "session_id", "store", "stream_interval", "truncation_side", "user"),
    )
)
"""Fields for a provider's own books, caches and pace, and of pages and models that are not served."""


@dataclass(frozen=True)
class Form:
    """A form of requests: its fields, and what counts where a field is not given."""

    name: str
    prefix: str
    """What the answer's id begins with."""
    object: str
    """What answers say they are; chunks of a stream may say another."""
    chunk_object: str
    input: str
    """Name of the field with what the model is to read."""
    fields: tuple[Field | Unused | Refused, ...]
    max_tokens: int | None
    """Most tokens of an answer; None is what the context has room for."""
    sampling: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 1.0})
    """OpenAI's defaults where they are not the engine's. They are the same for every base: what a
    generation_config.json says is not asked."""

    @cached_property
    def by_name(self) -> dict[str, Field | Unused | Refused]:
        return {one.name: one for one in self.fields}


COMPLETION = Form(
    "completion",
    "cmpl-",
    "text_completion",
    "text_completion",
    "prompt",
    (
        *_SAMPLING,
        *_REQUEST,
        Field("prompt", PROMPT, "option.prompts"),
        Field("logprobs", INTEGER, "sampling.logprobs"),
        Refused("add_special_tokens", (True,), "send token ids"),
        Field("best_of", INTEGER, "option.best_of"),
        Refused("prompt_embeds"),
        Refused("suffix", ("",)),
        *_NOT_SERVED,
        *_WITHOUT_EFFECT,
    ),
    max_tokens=16,
)
CHAT = Form(
    "chat",
    "chatcmpl-",
    "chat.completion",
    "chat.completion.chunk",
    "messages",
    (
        *_SAMPLING,
        *_REQUEST,
        Field("messages", MESSAGES, "request.messages"),
        Field("logprobs", BOOLEAN, "option.with_logprobs"),
        Field("top_logprobs", INTEGER, "sampling.logprobs"),
        Field("add_generation_prompt", BOOLEAN, "option.add_generation_prompt"),
        Field("continue_final_message", BOOLEAN, "request.continue_final_message"),
        Field("chat_template_kwargs", OBJECT, "request.chat_template_kwargs"),
        Field(
            "reasoning_effort",
            one_of("none", "minimal", "low", "medium", "high", "xhigh", "max"),
            "option.reasoning_effort",
        ),
        Refused("add_special_tokens", (False,)),
        Refused("audio"),
        Refused("chat_template", hint="the template is the model's, or the adapter's own"),
        Field("tools", TOOLS, "request.tools"),
        Field("tool_choice", TOOL_CHOICE, "request.tool_choice"),
        Field("parallel_tool_calls", BOOLEAN, "request.parallel_tool_calls"),
        Field("documents", DOCUMENTS, "request.documents"),
        Field("include_reasoning", BOOLEAN, "option.include_reasoning"),
        Refused("function_call", ("none",), "use tools"),
        Refused("functions", ([],), "use tools"),
        Refused("modalities", (["text"],)),
        Refused("moderation"),
        Refused("return_prompt_text", (False,), "return_token_ids gives the prompt's tokens"),
        Refused("verbosity", ("medium",)),
        Refused("web_search_options"),
        Unused("media_io_kwargs"),
        Unused("mm_processor_kwargs"),
        Unused("prediction"),
        *_NOT_SERVED,
        *_WITHOUT_EFFECT,
    ),
    max_tokens=None,
)
