"""Reading of answers inside a worker: as the project's processes ask for it.

What a template gives a field is told apart as the answer grows. Its patterns are a stranger's, and
so is the text that they read: both may take any time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .worker import RefusedError

if TYPE_CHECKING:
    from .answer_reader import AnswerReader

OPEN = f"{__name__}:open_answers"
READ = f"{__name__}:read_on"
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

    _answers.clear()
    check_template(template)
    for index in range(choices):
        _answers[index] = AnswerReader(template, prompt, tools, takes_calls)


def read_on(pieces: Sequence[tuple[int, str, bool]]) -> dict[str, Any]:
    """Read pieces of text, each with its answer's index and whether it is the last.

    `read`: for each what is new of the message, and how many characters of the answer that leaves
    nothing open about. `seconds`: of computing; more pass where the cores have other work.
    """
    before = time.process_time()
    read = [_answers[index].read(text, is_last) for index, text, is_last in pieces]
    return {"read": read, "seconds": time.process_time() - before}
