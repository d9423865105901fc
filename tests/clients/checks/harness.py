"""Checks by name, run one after the other; what each found goes into a file, a line of JSON each."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable

Check = Callable[[str], None]
CHECKS: list[Check] = []

ADAPTERS = ("pirate", "json", "sentiment")
CAPITAL = "What is the capital of France?"
CITY_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
ANSWER_SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "sure": {"type": "boolean"}},
    "required": ["city", "sure"],
    "additionalProperties": False,
}


def check(function: Check) -> Check:
    """Register a check. It is given the server's address and raises where something is wrong."""
    CHECKS.append(function)
    return function


def main() -> None:
    url, report = sys.argv[1:]
    with open(report, "w") as lines:
        for function in CHECKS:
            started = time.monotonic()
            problem = _problem(function, url)
            row = {
                "check": function.__name__.replace("_", " "),
                "problem": problem,
                "seconds": time.monotonic() - started,
            }
            lines.write(json.dumps(row) + "\n")
            lines.flush()


def _problem(function: Check, url: str) -> str:
    try:
        function(url)
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)[1]
        return f"{type(error).__name__}: {error} ({line.name}:{line.lineno}, {line.line})"
    return ""
