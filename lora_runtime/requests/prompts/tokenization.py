"""Requests to prompt token ids, with every way a prompt can be unusable."""

from __future__ import annotations

from functools import partial
from typing import Any

from ...api.json_values import plain
from ...api.messages import read_objects
from ...api.requests import Request
from ...errors import InvalidRequestError
from ...foreign.chat_forms import fitted, render_turns
from ..text.backend import SHORT_CHARACTERS, encode_short
from .lengths import TextLimit

_REASON = 300
"""Characters of what a template says: some have all of the conversation in it."""


def encode(
    request: Request,
    tokenizer: Any,
    vocab_size: int,
    max_context: int,
    *,
    limit: TextLimit | None = None,
    chat: str | None = None,
    add_special_tokens: bool = True,
) -> tuple[int, ...]:
    """The prompt's token ids. Raises InvalidRequestError: empty, too long, or not in the
    vocabulary.

    `prompt` is tokenized with the tokenizer's own special tokens, if `add_special_tokens`;
    `messages` through its chat template with the assistant's turn opened, or its last one begun;
    `chat` is their text, if that is rendered already.
    `limit`: of their texts; None is the usual one.
    """
    limit = limit or TextLimit(max_context)
    field = next(n for n in ("prompt", "token_ids", "messages") if getattr(request, n) is not None)
    if request.token_ids is not None:
        ids = list(request.token_ids)
    elif request.messages is not None:
        limit.check_messages(request.messages)
        text = render_chat(request, tokenizer) if chat is None else chat
        ids = limit.tokenize(text, field, partial(_ids, tokenizer, add_special_tokens=False))
    else:
        assert request.prompt is not None
        ids = limit.tokenize(
            request.prompt,
            field,
            partial(_ids, tokenizer, add_special_tokens=add_special_tokens),
        )
    if not ids:
        raise InvalidRequestError.of(field, "has no tokens")
    if bad := next((t for t in ids if not 0 <= t < vocab_size), None):
        raise InvalidRequestError.of(
            field, f"token id {bad} is outside the vocabulary of {vocab_size}"
        )
    if len(ids) >= max_context:
        raise InvalidRequestError.of(
            field,
            f"has {len(ids)} tokens, the context holds {max_context} with at least one to generate"
            f"{limit.note}",
        )
    return tuple(ids)


def _ids(tokenizer: Any, text: str, *, add_special_tokens: bool) -> list[int]:
    if (
        len(text) <= SHORT_CHARACTERS
        and (ids := encode_short(tokenizer, text, add_special_tokens)) is not None
    ):
        return ids
    return tokenizer(text, verbose=False, add_special_tokens=add_special_tokens)["input_ids"]


def render_chat(request: Request, tokenizer: Any) -> str:
    """Text of a conversation by the operator's own template. Raises InvalidRequestError."""
    if not tokenizer.chat_template:
        raise InvalidRequestError.of("messages", "the base model's tokenizer has no chat template")
    values = template_values(request)

    def render(turns: list[dict[str, Any]]) -> str:
        return tokenizer.apply_chat_template(
            turns,
            add_generation_prompt=not request.continue_final_message,
            continue_final_message=request.continue_final_message,
            tokenize=False,
            **values,
        )

    try:
        template = tokenizer.get_chat_template(tools=values.get("tools"))
        turns = [m.values() for m in request.messages or ()]
        return render_turns(fitted(turns, template, tokenizer.special_tokens_map), render)
    except Exception as error:  # whatever a template does with what callers wrote
        text = f"refuses them: {error or type(error).__name__}"[:_REASON]
        raise refusal(request, f"the chat template {text}") from error


def template_values(request: Request) -> dict[str, Any]:
    """Values that a request's template gets by name, beside the conversation."""
    values = plain(request.chat_template_kwargs)
    for name in ("tools", "documents"):
        if given := getattr(request, name):
            values[name] = plain(read_objects(given))
    return values


def refusal(request: Request, text: str) -> InvalidRequestError:
    """Refusal of a chat by its template, with the field that is at fault as far as that is known."""
    is_about_its_end = request.continue_final_message and "continue_final_message is set" in text
    return InvalidRequestError.of(
        "continue_final_message" if is_about_its_end else "messages", text
    )
