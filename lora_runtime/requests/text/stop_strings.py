"""Search for many stop strings at once, a character at a time."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from functools import lru_cache


class StopStrings:
    """Automaton of Aho and Corasick over the stop strings: a state for each of their beginnings.

    A character costs the same however many strings there are and however long they are. 0 is the
    state of a text that no stop string begins in.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._next = [""]
        """By state, the character that leads to the state behind it, or "" for none."""
        self._branches: dict[int, dict[str, int]] = {}
        """Other characters and where they lead, by state: as many as there are strings."""
        self.depth = array("i", [0])
        """By state, how many characters at the end of the text begin a stop string."""
        self.found = array("i", [0])
        """By state, the length of the longest stop string that ends here; 0: none does."""
        self._whole: dict[int, str] = {}
        """Stop strings by the states that are theirs alone."""
        for string in strings:
            self._insert(string)
        self._shorter = array("i", bytes(len(self.depth) * self.depth.itemsize))
        """By state, that of the next shorter end of the text that begins a stop string."""
        self._link()

    def scan(self, state: int, text: str, ends: bool = True) -> tuple[int, int]:
        """Read `text` in `state`. Gives the state after it, and 0; or, if a stop string becomes
        complete and `ends` it, the state there and the number of characters up to there."""
        following, branches, shorter, found = self._next, self._branches, self._shorter, self.found
        for at, character in enumerate(text, 1):
            while True:
                if state and following[state] == character:
                    state += 1
                    break
                if (others := branches.get(state)) and (there := others.get(character)):
                    state = there
                    break
                if not state:
                    break
                state = shorter[state]
            if found[state] and ends:
                return state, at
        return state, 0

    def string(self, state: int) -> str:
        """Give the longest stop string that ends in `state`, of those in which one does."""
        while state not in self._whole:
            state = self._shorter[state]
        return self._whole[state]

    def _insert(self, string: str) -> None:
        """Add the states of one string."""
        state, depth = 0, 0
        while depth < len(string):
            if self._next[state] == string[depth]:
                state += 1
            elif (there := self._branches.get(state, {}).get(string[depth])) is not None:
                state = there
            else:
                break
            depth += 1
        if depth == len(string):
            self.found[state] = depth
        else:
            self._branches.setdefault(state, {})[string[depth]] = len(self.depth)
            self.depth.extend(range(depth + 1, len(string) + 1))
            self.found.extend([0] * (len(string) - depth - 1) + [len(string)])
            self._next += [*string[depth + 1 :], ""]
            state = len(self.depth) - 1
        self._whole[state] = string

    def _link(self) -> None:
        """Find each state's next shorter one, the short ones first."""
        waiting = deque([0])
        while waiting:
            state = waiting.popleft()
            others = self._branches.get(state, {})
            on = [(self._next[state], state + 1)] if self._next[state] else []
            for character, there in (*on, *others.items()):
                shorter = self._follow(self._shorter[state], character) if state else 0
                self._shorter[there] = shorter
                # The longer of two that end together is the state's own.
                self.found[there] = self.found[there] or self.found[shorter]
                waiting.append(there)

    def _follow(self, state: int, character: str) -> int:
        while state:
            if self._next[state] == character:
                return state + 1
            if (others := self._branches.get(state)) and (there := others.get(character)):
                return there
            state = self._shorter[state]
        return self._branches.get(0, {}).get(character, 0)


@lru_cache(maxsize=16)
def stop_strings(strings: tuple[str, ...]) -> StopStrings:
    """The automaton, one for all choices of a request."""
    return StopStrings(strings)
