"""A replica's page for placement, read by placement."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

# Of a line, and bounded: a page of quotes that do not end would take minutes.
_NAME = r'"((?:[^"\\\n]|\\.){0,1024})"'
# The whole text format would take ten times as long, and there may be thousands of lines.
_SLOTS = re.compile(r"^(?:vllm:|loramux_)max_gpu_lora_adapters(?:\{.*\})? (\S+)$", re.MULTILINE)
_LOADED = re.compile(
    rf'^(?:vllm:|loramux_)lora_adapter_loaded\{{adapter_name={_NAME},level="gpu"', re.MULTILINE
)
_WORK = re.compile(rf"^loramux_adapter_work_tokens_total\{{adapter={_NAME}\}} (\S+)$", re.MULTILINE)
_LOADS = re.compile(
    r"^(?:vllm:|loramux_)(?:lora_)?adapter_load_seconds_count(?:\{.*\})? (\S+)$", re.MULTILINE
)
_MOST = 2.0**53
"""Of a number: beyond it counters do not count, and sums may be no numbers."""
_ESCAPES = {r"\\": "\\", r"\n": "\n", r"\"": '"'}
_ESCAPE = re.compile(r"\\.")


@dataclass(frozen=True)
class Page:
    """What a replica says of itself."""

    slots: int
    resident: frozenset[str]
    """Adapters in its slots."""
    work: dict[str, float]
    """Tokens computed by adapter, since it started."""
    loads: float = 0.0
    """Adapters loaded since then."""


def parse(text: str) -> Page:
    """Read a page. Raises ValueError for one that is not a loramux server's, has no base yet, or has
    what is no count."""
    slots = _SLOTS.search(text)
    if slots is None:
        raise ValueError(
            "the page has no slots for adapters: no loramux server, or none with a base"
        )
    loads = _LOADS.search(text)
    return Page(
        slots=int(_number(slots[1])),
        resident=frozenset(_plain(name) for name in _LOADED.findall(text)),
        work={_plain(name): _number(tokens) for name, tokens in _WORK.findall(text)},
        loads=_number(loads[1]) if loads else 0.0,
    )


def _number(text: str) -> float:
    """Read a count. Raises ValueError for what is none, such as NaN."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= _MOST:
        raise ValueError(f"{text[:32]!r} on the page is no count")
    return number


def _plain(value: str) -> str:
    if "\\" not in value:
        return value
    return _ESCAPE.sub(lambda found: _ESCAPES.get(found[0], found[0]), value)
