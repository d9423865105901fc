"""Settings in the environment: LORAMUX_<NAME>, and what else has a name that begins like that."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

PREFIX = "LORAMUX_"
OTHERS = frozenset(
    PREFIX + name
    for name in (
        # of the command line
        "CONFIG",
        "TARGET",
        "TLS",
        "CA",
        "CERT",
        "KEY",
        "TOKEN",
        "TOKEN_FILE",
        "FETCH_AUTHORIZATION",
        *(
            f"PLACEMENT_{n}"
            for n in ("REPLICAS", "HOST", "PORT", "INTERVAL_S", "HALF_LIFE_S", "TOLERANCE")
        ),
        # of the runtime
        "KERNEL_CACHE",
        "PREFILL_TILES",
    )
)
"""Variables that are read where they are needed, and are no settings of the server."""

# What Kubernetes sets in each pod for a Service called loramux, or loramux-<something>: a Service's
# port is a URL, where a setting's is a number.
_LINK_NAME = re.compile(
    r"LORAMUX_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)"
)
_LINK_PORT = re.compile(r"LORAMUX_(\w+_)?PORT")
_LINK_URL = re.compile(r"(tcp|udp|sctp)://\S+:\d+")
_CLOSE = 0.7
_SHOWN = 80


def service_links(environ: Mapping[str, str]) -> list[str]:
    """Give the names of variables that Kubernetes sets for Services called loramux or
    loramux-<something>."""
    return sorted(name for name, text in environ.items() if _is_link(name, text))


def _is_link(name: str, text: str) -> bool:
    if _LINK_PORT.fullmatch(name) and _LINK_URL.fullmatch(text):
        return True
    return _LINK_NAME.fullmatch(name) is not None


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Give what is set for the server, by name; an empty variable is as one that is not set."""
    return {
        name: text
        for name, text in sorted(environ.items())
        if text
        and name.upper().startswith(PREFIX)
        and name not in OTHERS
        and not _is_link(name, text)
    }


def nearest(name: str, names: Iterable[str], prefix: str = "") -> str:
    """Say what `name` was perhaps meant to be; nothing where no other name is like it."""
    found = difflib.get_close_matches(name, list(names), 1, _CLOSE)
    return f"; did you mean {prefix}{found[0]}?" if found else ""


def shown(value: Any) -> str:
    """Give a value as messages have it, in one short line, without what URLs have of secrets."""
    from lora_runtime import redact  # torch comes with it, and only errors need it

    text = redact(repr(value))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def items(text: str) -> list[str]:
    """Split a list with commas; a JSON array may have commas in its texts.

    Raises ValueError.
    """
    if text.lstrip().startswith("["):
        value = from_json(text)
        if not all(isinstance(item, str) for item in value):
            raise ValueError("its items must be texts")
        return value
    return [item.strip() for item in text.split(",") if item.strip()]


def pairs(texts: Iterable[str]) -> dict[str, str]:
    """Parse NAME=DIRECTORY texts. Raises ValueError for what is none, and for a name twice."""
    return _once(map(_pair, texts))


def _pair(text: str) -> tuple[str, str]:
    name, _, path = text.partition("=")
    if not name or not path:
        raise ValueError(f"{shown(text)} is not NAME=DIRECTORY")
    return name, path


def mapping(text: str) -> dict[str, str]:
    """Parse NAME=DIRECTORY with commas, or a JSON object. Raises ValueError."""
    return from_json(text) if text.lstrip().startswith("{") else pairs(items(text))


def from_json(text: str) -> Any:
    """Parse JSON. Raises ValueError, also for a key that is given twice."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"it is not JSON: {error}") from error


def _once(given: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in given:
        if name in found:
            raise ValueError(f"{shown(name)} is given twice")
        found[name] = value
    return found
