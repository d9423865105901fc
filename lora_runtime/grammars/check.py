"""Trial of a stranger's grammar inside a worker: what it costs to compile is known afterwards, and
what ends the process ends no other."""

from __future__ import annotations

import ctypes
import re
import resource
import threading
import time
from itertools import takewhile
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from ..foreign.worker import RefusedError

CHECK = f"{__name__}:check"
MAX_RESULT_BYTES = 4096
OPTIONS = '%llguidance {"no_forcing": true}'
"""Line of every grammar.

Lets the model spell what must come next as it will: llguidance would ask the tokenizer, which has
added tokens wherever a text has theirs, and then find that special ones are no text.
"""
_STACK_BYTES = 2 << 20
"""Less than threads have outside: a grammar that fits here overflows no stack there."""
ROW_BYTES = 32 << 20
"""Memory that a matcher may take at the beginning: each row has one of its own."""
_SAID = 300
_OWN_LINE = re.compile(r"\s*\d+ \| .*\"x-guidance\"")
"""Quoted line that a schema was put into, with options that are not its caller's."""


def limits() -> LLParserLimits:
    """Limits of what one mask, and one row's states, may take: tens of milliseconds, and of MB."""
    return LLParserLimits(
        max_items_in_row=10_000,  # as of an object with two thousand optional properties
        max_lexer_states=50_000,
        verbose_errors=False,
    )


def compiled(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """Matcher at the beginning of an answer. Raises ValueError for what is no grammar."""
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits())
    if matcher.is_error():
        raise ValueError(said(matcher))
    return matcher


def first_mask(matcher: LLMatcher) -> None:
    """Find what the first token may be. Raises ValueError where none can."""
    matcher.compute_bitmask()
    if matcher.is_error():
        raise ValueError(f"no token can begin the answer: {said(matcher)}")


def said(matcher: LLMatcher) -> str:
    """What a matcher says it failed at, in a line."""
    lines = matcher.get_error().partition("\n<")[0].splitlines()
    lines = list(takewhile(lambda line: not _OWN_LINE.match(line), lines))
    text = " ".join(line for line in lines if OPTIONS not in line)
    return " ".join(text.split())[:_SAID] or "it cannot go on"


def check(grammar: str) -> dict[str, Any]:
    """Compile a grammar, and find what the first token may be. Raises RefusedError."""
    outcome: dict[str, Any] = {}
    threading.stack_size(_STACK_BYTES)
    thread = threading.Thread(target=_try, args=(grammar, outcome))
    thread.start()
    thread.join()
    if error := outcome.get("error"):
        raise RefusedError(error)
    return outcome


def _try(grammar: str, outcome: dict[str, Any]) -> None:
    began = time.process_time()
    try:
        tokenizer = LLTokenizer("byte")
        before = _resident()
        matcher = compiled(tokenizer, grammar)
        first_mask(matcher)
        if _resident() - before > ROW_BYTES:
            raise ValueError(f"takes more than {ROW_BYTES >> 20} MiB for each answer")
    except BaseException as error:  # panics of Rust's code too
        outcome["error"] = str(error)[:_SAID] or type(error).__name__
    outcome["seconds"] = time.process_time() - began


def _resident() -> int:
    """Bytes of memory that this process has, without what the C library keeps of freed memory."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # else a trial would find room that one before it has left
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:  # no Linux, or a sandbox around it: limits of time and of the process remain
        return 0
