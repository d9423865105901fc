"""An answer's text, made from its tokens: whole characters, and nothing from a stop string on."""

from __future__ import annotations

from collections.abc import Sequence

from .detokenize import IncrementalDetokenizer
from .stop_matcher import StopMatcher


class AnswerText:
    """Text of one choice.

    A stop string ends it where it is part of the text as it is delivered, and where it is part of
    the text with special tokens shown: of the token, too, that ends the answer and gives no text.
    """

    def __init__(self, detokenizer: IncrementalDetokenizer, stop: Sequence[str]) -> None:
        self.detokenizer = detokenizer
        self.stops = StopMatcher(stop)

    def push(self, token_id: int) -> tuple[str, bool]:
        """The text that a token adds, and whether a stop string ends the answer."""
        text = self.detokenizer.push(token_id)
        if text or not self.stops.has_strings:
            return self.stops.push(text)
        return self.stops.push_hidden(self.detokenizer.special_text(token_id))

    def end(self, last: int | None = None, is_eos: bool = False) -> tuple[str, bool]:
        """The rest of the text, and whether a stop string begins in it.

        `last`: the token that ends the answer, if that gives no text. An end of sequence that only
        has a stop string somewhere within is no stop string's end.
        """
        text, stopped = self.stops.push(self.detokenizer.flush())
        if not stopped and last is not None and self.stops.has_strings:
            more, stopped = self.stops.push_end(self.detokenizer.special_text(last, is_eos))
            text += more
        return text if stopped else text + self.stops.flush(), stopped
