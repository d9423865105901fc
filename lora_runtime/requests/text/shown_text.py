"""An answer's text with special tokens shown: delimiters of its parts mostly are such tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...api.answers import FinishReason, TokenEvent
from ...api.requests import SamplingParams
from .answer_text import AnswerText
from .detokenize import IncrementalDetokenizer


class ShownText:
    """Text of one choice, made from its events; it ends where the text that is given does.

    The token that ends the answer has none here either: a message ends by itself there.
    """

    def __init__(
        self, tokenizer: Any, prompt: Sequence[int], params: SamplingParams, ends: frozenset[int]
    ) -> None:
        """`ends`: the tokens that end the answer."""
        shown = IncrementalDetokenizer(tokenizer, prompt, False)
        self._text = AnswerText(shown, params.stop, params.min_tokens)
        self._ends = ends

    def push(self, event: TokenEvent) -> str:
        """What an event adds."""
        text, stopped = "", False
        for token in event.token_ids:
            is_eos = event.finish_reason is FinishReason.EOS
            if is_eos or (event.finish_reason and token in self._ends):
                return text + self._text.end(token, is_eos)[0]
            more, stopped = self._text.push(token)
            text += more
        if event.finish_reason is FinishReason.LENGTH and not stopped:
            text += self._text.end()[0]
        return text
