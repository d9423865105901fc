"""Size of a whole answer, before it is computed, and before it is written."""

from __future__ import annotations

from lora_runtime import (
    Engine,
    FieldViolation,
    Generation,
    InvalidRequestError,
    RequestHandle,
    SamplingParams,
)

QUICK_ENTRIES = 1024
"""Entries of an answer that is written on the event loop: to go to a thread takes longer."""

_TEXT_BYTES = 6
"""Bytes of text of a token: more than those of long answers have, on average."""
_LOGPROB_BYTES = 6
"""Bytes of a logprob with its tag, and of the tag before its token id."""
_FRAME_BYTES = 2
"""Bytes of tag and length around a logprob."""


def check_handle(handle: RequestHandle, engine: Engine, max_bytes: int) -> None:
    """Check the answer of a submitted request. Raises InvalidRequestError."""
    params, prompt = handle.request.sampling, len(handle.prompt_token_ids)
    sizes = engine.max_context, engine.base.vocab_size, max_bytes
    check_size(params, prompt, *sizes, parsed=handle.request.parse_answer)


def check_size(
    params: SamplingParams,
    prompt_tokens: int,
    max_context: int,
    vocab_size: int,
    max_bytes: int,
    parsed: bool = False,
) -> None:
    """Check that an answer fits into one message, before it is computed. Raises
    InvalidRequestError."""
    tokens = min(params.max_new_tokens, max_context - prompt_tokens)
    if answer_bytes(params, tokens, vocab_size, parsed) <= max_bytes:
        return
    text = (
        f"the answer may have over {max_bytes} bytes, a message's limit: take fewer tokens, choices "
        "or logprobs, or a stream"
    )
    fields = ["max_new_tokens"] + ["n"] * (params.n > 1) + ["logprobs"] * bool(params.logprobs)
    raise InvalidRequestError([FieldViolation(field, text) for field in fields])


def answer_bytes(params: SamplingParams, tokens: int, vocab_size: int, parsed: bool = False) -> int:
    """Bytes of an answer of `tokens` tokens a choice, about: only texts are not known before."""
    token_id = -(-vocab_size.bit_length() // 7)
    each = token_id + _TEXT_BYTES * (2 if parsed else 1)  # that of the message is beside the text
    if params.logprobs is not None:
        one = token_id + _LOGPROB_BYTES + _FRAME_BYTES
        each += one * (1 + params.logprobs) + 1  # of the outer one the length has two bytes
    return params.n * tokens * each + tokens * _TEXT_BYTES  # the first choice's text comes twice


def entries(done: Generation) -> int:
    """Count tokens and logprobs: what an answer takes to be written."""
    return sum(len(c.token_ids) + sum(1 + len(p.top) for p in c.logprobs) for c in done.choices)
