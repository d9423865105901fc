"""Reading of answers inside a worker: as the project's processes ask for it.

What a template gives a field is told apart as the answer grows. Its patterns are a stranger's, and
so is the text that they read: both may take any time.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from .worker import RefusedError

if TYPE_CHECKING:
    from .answer_reader import AnswerReader

OPEN = f"{__name__}:open_answers"
READ = f"{__name__}:read_on"
_LONG_S = 0.1
"""Seconds of computing after which a reading has what the others leave: a stranger may have many
begun at once."""
_NICENESS = os.nice(0)
_answers: dict[int, AnswerReader] = {}


def check_template(template: Any) -> None:
    """Check that a response template is one. Raises RefusedError."""
    from transformers.utils.chat_parsing.response_templates import load_response_template

    try:
        load_response_template(template)
    except Exception as error:
        raise RefusedError(f"{error}"[:300]) from error


def open_answers(
    template: dict[str, Any], prompt: str, tools: list[Any], takes_calls: bool, choices: int
) -> None:
    """Begin the answers to a prompt; those of a request before are dropped. Raises RefusedError."""
    from .answer_reader import AnswerReader

    if os.nice(0) > _NICENESS:
        os._exit(0)  # another process has its usual priority
    _answers.clear()
    with _yielding():
        check_template(template)
        for index in range(choices):
            _answers[index] = AnswerReader(template, prompt, tools, takes_calls)


def read_on(pieces: Sequence[tuple[int, str, bool]]) -> dict[str, Any]:
    """Read pieces of text, each with its answer's index and whether it is the last.

    `read`: for each what is new of the message, and how many characters of the answer that leaves
    nothing open about. `seconds`: of computing; more pass where the cores have other work.
    """
    before = time.process_time()
    with _yielding():
        read = [_answers[index].read(text, is_last) for index, text, is_last in pieces]
    return {"read": read, "seconds": time.process_time() - before}


@contextmanager
def _yielding() -> Iterator[None]:
    """Give this process the lowest priority where it computes long."""
    _prepare()
    signal.setitimer(signal.ITIMER_PROF, _LONG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


@cache
def _prepare() -> None:
    # The C library's own function, since none of Python's would run within a pattern: it is called
    # with the signal's number, more than there are steps to the lowest priority.
    library = ctypes.CDLL(None)
    library.signal(signal.SIGPROF, ctypes.cast(library.nice, ctypes.c_void_p))
