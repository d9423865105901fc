"""A prompt's tokens, without an answer."""

from __future__ import annotations

from typing import Any


class PromptTokens:
    """Tokens of a prompt, by the tokenizer that its adapter wants."""

    def __init__(self, token_ids: tuple[int, ...], tokenizer: Any) -> None:
        self.token_ids = token_ids
        self._tokenizer = tokenizer

    def text(self) -> str:
        """Make their text, special tokens included."""
        return self._tokenizer.decode(
            list(self.token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def names(self) -> list[str]:
        """Find what the vocabulary calls each; empty for an id that it does not know."""
        return [n or "" for n in self._tokenizer.convert_ids_to_tokens(list(self.token_ids))]
