"""An answer's text, made from its tokens: whole characters, and nothing from a stop string on."""

from __future__ import annotations

from collections.abc import Sequence

from .detokenize import IncrementalDetokenizer
from .stop_matcher import StopMatcher


class AnswerText:
    """Text of one choice.

    A stop string ends it where it is part of the text as it is delivered, and where it is part of
    the text with special tokens shown: of the token, too, that ends the answer and gives no text.
    One that is complete within the first `min_tokens` tokens does not end it.
    """

    def __init__(
        self, detokenizer: IncrementalDetokenizer, stop: Sequence[str], min_tokens: int = 0
    ) -> None:
        self.detokenizer = detokenizer
        self.stops = StopMatcher(stop)
        self._early = min_tokens or -1
        """Tokens to come that no stop string ends the answer at; -1 after one that it may."""

    def push(self, token_id: int) -> tuple[str, bool]:
        """The text that a token adds, and whether a stop string ends the answer."""
        ends = self._early <= 0
        self._early = -1 if ends else self._early - 1
        text = self.detokenizer.push(token_id)
        if text or not self.stops.has_strings:
            return self.stops.push(text, ends)
        return self.stops.push_hidden(self.detokenizer.special_text(token_id), ends)

    def end(self, last: int | None = None, is_eos: bool = False) -> tuple[str, bool]:
        """The rest of the text, and whether a stop string begins in it.

        `last`: the token that ends the answer, if that gives no text. An end of sequence that only
        has a stop string somewhere within is no stop string's end.
        """
        # What is left is text of the last token that was pushed.
        text, stopped = self.stops.push(
            self.detokenizer.flush(), self._early < 0 or last is not None
        )
        if not stopped and last is not None and self.stops.has_strings:
            more, stopped = self.stops.push_end(self.detokenizer.special_text(last, is_eos))
            text += more
        return text if stopped else text + self.stops.flush(), stopped
