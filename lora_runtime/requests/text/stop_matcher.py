"""Stop strings in an answer that grows, as it reads with its special tokens and without them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from .stop_strings import StopStrings, stop_strings


class StopMatcher:
    """Holds text back while it could still be the beginning of a stop string.

    There are two texts: the answer with all tokens shown, and as it is delivered, without what is
    hidden. A stop string is looked for in both. Until something is hidden they are one.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._strings = stop_strings(tuple(stops)) if stops else None
        self._shown = _Reader(0, 0)
        self._delivered: _Reader | None = None
        """None while it stands where `_shown` does."""
        self._hidden: deque[tuple[int, int]] = deque()
        """Where in the shown text something is hidden, and its length: what may be part of a stop
        string."""
        self._hidden_before = 0
        self._given = 0
        self.held = ""
        """Text that is held back."""
        self.found = ""
        """Stop string that was completed."""

    @property
    def has_strings(self) -> bool:
        return self._strings is not None

    def push(self, text: str, ends: bool = True) -> tuple[str, bool]:
        """Text that is safe to emit, and whether a stop string was completed, if one `ends` it.

        The stop string that is complete first wins (of two that end together, the longer), however
        the text is cut into pushes; nothing of it nor behind it is emitted.
        """
        strings = self._strings
        if strings is None:
            return text, False
        self.held += text
        end, start = self._shown.read(strings, text, ends)
        start, state = self._place(start), self._shown.state
        if self._delivered is not None:
            other_end, other = self._delivered.read(strings, text, ends)
            found = other_end, other, self._delivered.state
            if other_end and end:
                end, start, state = min((end, start, state), found)
            elif other_end:
                end, start, state = found
            elif not end:
                start = min(start, other)
            if not self._hidden and self._delivered.state == self._shown.state:
                self._delivered = None
        if end:
            self.found = strings.string(state)
        return self._give(start), end > 0

    def push_hidden(self, text: str, ends: bool = True) -> tuple[str, bool]:
        """Push what is not delivered; gives as `push` does."""
        strings = self._strings
        if strings is None or not text:
            return "", False
        if self._delivered is None:
            self._delivered = _Reader(self._shown.state, self._shown.length - self._hidden_before)
        self._hidden.append((self._shown.length, len(text)))
        end, start = self._shown.read(strings, text, ends)
        start = self._place(start)
        if end:
            self.found = strings.string(self._shown.state)
        else:
            start = min(start, self._delivered.read(strings, "")[1])
        return self._give(start), end > 0

    def push_end(self, text: str) -> tuple[str, bool]:
        """Push the token that ends the answer, which is not delivered; gives as `push` does.

        What stands within the token alone is no stop string: it ends the answer by itself.
        """
        before = self._begun() if text else ""
        found = [
            (at + len(stop), at, stop)
            for stop in self._stops
            # What is complete in `before` was passed over.
            if (at := (before + text).find(stop, max(0, len(before) - len(stop) + 1))) >= 0
            and (at < len(before) or stop == text)
        ]
        if not found:
            return "", False
        _, at, self.found = min(found)
        return self._give(self._place(self._shown.length - len(before) + at)), True

    def flush(self) -> str:
        """The text that is held back, once no more can follow."""
        text, self.held = self.held, ""
        return text

    def _begun(self) -> str:
        """The end of the shown text that may become a stop string."""
        strings, state = self._strings, self._shown.state
        if strings is None or not state:
            return ""
        ends = {stop[: strings.depth[state]] for stop in self._stops}
        return next(end for end in ends if strings.scan(0, end, ends=False)[0] == state)

    def _give(self, end: int) -> str:
        """What is held back of the delivered text before its character `end`."""
        count = end - self._given
        self._given = end
        text, self.held = self.held[:count], self.held[count:]
        return text

    def _place(self, at: int) -> int:
        """The place in the delivered text of one in the shown text, behind those asked for before."""
        while self._hidden and sum(self._hidden[0]) <= at:
            self._hidden_before += self._hidden.popleft()[1]
        inside = max(0, at - self._hidden[0][0]) if self._hidden else 0
        return at - self._hidden_before - inside


class _Reader:
    """How far a text was read: its length, and the state that its end is in."""

    def __init__(self, state: int, length: int) -> None:
        self.state, self.length = state, length

    def read(self, strings: StopStrings, text: str, ends: bool = True) -> tuple[int, int]:
        """Read on. Gives how much of `text` completes a stop string, 0 if none is complete; and
        where in the whole text that begins, or what may become one."""
        self.state, end = strings.scan(self.state, text, ends)
        self.length += end or len(text)
        return end, self.length - (strings.found if end else strings.depth)[self.state]
