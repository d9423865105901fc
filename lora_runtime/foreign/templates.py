"""Rendering of a chat template inside a worker."""

from __future__ import annotations

from typing import Any

from .chat_forms import fitted, render_turns
from .worker import RefusedError

RENDER = f"{__name__}:render"


def render(
    template: str,
    messages: list[dict[str, Any]],
    variables: dict[str, Any],
    max_chars: int,
    continues: bool = False,
    special: dict[str, Any] | None = None,
) -> str:
    """Text of a conversation with the assistant's turn opened, as transformers renders it; or, if
    it `continues`, with the last message begun. `special`: tokens by transformers' names for them.

    Raises RefusedError for what the template refuses, fails at, or makes longer than `max_chars`.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    special = special or {}

    def rendered(turns: list[dict[str, Any]]) -> str:
        arguments: dict[str, Any] = {"conversations": [turns], "chat_template": template}
        texts: Any = render_jinja_template(
            **arguments,
            **(special | variables),
            add_generation_prompt=not continues,
            continue_final_message=continues,
        )
        return texts[0][0]

    try:
        text = render_turns(fitted(messages, template, special), rendered)
        text.encode()  # tokenizers take no halves of characters
    except MemoryError:
        raise RefusedError("needs more memory than it may take") from None
    except Exception as error:
        raise RefusedError(f"refuses them: {error or type(error).__name__}"[:300]) from error
    if len(text) > max_chars:
        raise RefusedError(f"makes a text of {len(text)} characters, {max_chars} may fit")
    return text
