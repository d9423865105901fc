"""An answer's text with special tokens shown: delimiters of its parts mostly are such tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..api.requests import FinishReason, TokenEvent
from .detokenize import IncrementalDetokenizer
from .text import AnswerText


class ShownText:
    """Text of one choice, made from its events; it ends where the text that is given does.

    The token that ends the answer has none here either: a message ends by itself there.
    """

    def __init__(
        self, tokenizer: Any, prompt: Sequence[int], stop: Sequence[str], ends: frozenset[int]
    ) -> None:
        """`ends`: the tokens that end the answer."""
        self._text = AnswerText(IncrementalDetokenizer(tokenizer, prompt, False), stop)
        self._ends = ends

    def push(self, event: TokenEvent) -> str:
        """What an event adds."""
        text, stopped = "", False
        for token in event.token_ids:
            if event.finish_reason and token in self._ends:
                more, stopped = self._text.end(token, event.finish_reason is FinishReason.EOS)
                return text + more
            more, stopped = self._text.push(token)
            text += more
        if event.finish_reason is FinishReason.LENGTH and not stopped:
            text += self._text.end()[0]
        return text
