"""Regular expressions out of an adapter's config: checked before they are compiled, matched within
a time budget."""

from __future__ import annotations

import math
import re
import time

import regex

from ...errors import AdapterError

MAX_LENGTH = 1024
MAX_CLASSES = 64
"""Limit of a pattern's brackets, and of its groups: compiling takes its time for each."""
MAX_PATTERNS = 4096
"""Limit of one adapter's patterns, which are all kept compiled while it is read."""
MAX_REPEATS = 1000
"""Largest product of a pattern's counted repetitions, which regex unrolls."""
BUDGET_S = 5.0
_BRACES = re.compile(r"\{(\d*)(?:,(\d*))?\}")


class Patterns:
    """Matcher of one adapter's patterns, as Python's re matches.

    All of it, compiling too, may take BUDGET_S, then AdapterError is raised.
    """

    def __init__(self) -> None:
        self._compiled: dict[str, regex.Pattern[str]] = {}
        self._left = BUDGET_S

    def full(self, field: str, pattern: str, text: str) -> bool:
        """True if the whole text matches; `field` is named in errors."""
        return self._run(field, pattern, text, whole=True) is not None

    def start(self, field: str, pattern: str, text: str) -> regex.Match[str] | None:
        """The match at the text's beginning."""
        return self._run(field, pattern, text, whole=False)

    def check(self, field: str, pattern: str) -> None:
        """Check that the pattern can be used. Raises AdapterError when it cannot."""
        if pattern not in self._compiled:
            began = time.perf_counter()
            if len(self._compiled) >= MAX_PATTERNS:
                raise AdapterError(
                    f"config field {field!r}: more than {MAX_PATTERNS} regular expressions"
                )
            self._compiled[pattern] = _compile(field, pattern)
            self._spend(field, began)

    def _run(self, field: str, pattern: str, text: str, whole: bool) -> regex.Match[str] | None:
        self.check(field, pattern)
        compiled, began = self._compiled[pattern], time.perf_counter()
        match = compiled.fullmatch if whole else compiled.match
        try:
            return match(text, timeout=self._left, concurrent=True)
        except TimeoutError as error:
            raise _too_slow(field) from error
        finally:
            self._spend(field, began)

    def _spend(self, field: str, began: float) -> None:
        self._left -= time.perf_counter() - began
        if self._left <= 0:
            raise _too_slow(field)


def _too_slow(field: str) -> AdapterError:
    return AdapterError(f"config field {field!r}: its regular expressions take too long")


def _compile(field: str, pattern: str) -> regex.Pattern[str]:
    if len(pattern) > MAX_LENGTH:
        raise AdapterError(
            f"config field {field!r} holds a regular expression of {len(pattern)} characters, the "
            f"limit is {MAX_LENGTH}"
        )
    if max(pattern.count("["), pattern.count("(")) > MAX_CLASSES:
        raise AdapterError(
            f"config field {field!r} holds a regular expression of more than {MAX_CLASSES} classes "
            "or groups"
        )
    try:
        re.compile(pattern)  # what PEFT would take
        if _repeats(pattern) > MAX_REPEATS:
            raise ValueError(f"its counted repetitions multiply to more than {MAX_REPEATS}")
        return regex.compile(pattern)
    except (re.error, regex.error, ValueError, OverflowError, RecursionError) as error:
        raise AdapterError(
            f"config field {field!r} holds a bad regular expression {pattern[:80]!r}: {error}"
        ) from error


def _repeats(pattern: str) -> int:
    if pattern.count("{") != len(_BRACES.findall(pattern)):
        raise ValueError("a brace that counts no repetitions")
    counts = [max(int(a[:9] or 1), int(b[:9] or 1), 1) for a, b in _BRACES.findall(pattern)]
    return math.prod(counts) if len(counts) <= 64 else MAX_REPEATS + 1
