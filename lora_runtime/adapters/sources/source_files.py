"""Files of an adapter that are fetched, their limits, and messages without a URL's credentials."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from ...errors import AdapterError
from ..peft.config import MAX_CONFIG_BYTES
from ..peft.generation import GENERATION_CONFIG
from ..peft.loader import CONFIG, WEIGHTS

REQUIRED = (CONFIG, WEIGHTS)
OPTIONAL = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    GENERATION_CONFIG,
)
"""Files of the tokenizer and of generation, where the adapter brings its own."""
MAX_TOKENIZER_BYTES = 64 << 20
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(\S*)")
_SPACED_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/?#'\"<>\n]*@")
"""User and password with spaces between them, which no URL may have: up to the last @ before a path
or a quote."""
_CLOSING = re.compile(r"['\"<>),.:;\]}]*\Z")


@dataclass(frozen=True)
class Limits:
    """Bytes that each file may have.

    Pickled weights have no limit because they are never fetched.
    """

    weights: int

    def of(self, name: str) -> int:
        own = {
            CONFIG: MAX_CONFIG_BYTES,
            WEIGHTS: self.weights,
            GENERATION_CONFIG: MAX_CONFIG_BYTES,
        }
        return own.get(name, MAX_TOKENIZER_BYTES)

    def check(self, source: str, name: str, size: int | None) -> None:
        """Check a file's size.

        Raises AdapterError. One that is not known passes: it is counted while the file is fetched.
        """
        if size is not None and size > self.of(name):
            raise AdapterError(
                f"{named(source)}: {name} is larger than the limit of {self.of(name)} bytes"
            )


def check_complete(source: str, found: Mapping[str, object]) -> None:
    """Check that the required files are there.

    Raises AdapterError that names the first one missing.
    """
    for name in REQUIRED:
        if name not in found:
            raise AdapterError(
                f"{named(source)}: {name} is missing (pickled weights are never fetched)"
            )


def named(source: str) -> str:
    """Name of the source in messages."""
    return f"adapter source {redact(source)!r}"


def redact(text: str) -> str:
    """Give the text, its URLs without user, password, query and fragment."""

    def clean(match: re.Match[str]) -> str:
        shown, *dropped = re.split(r"[?#]", match[2], maxsplit=1)
        authority, slash, path = shown.partition("/")
        # The text's own closing: quotes and full stops.
        closing = _CLOSING.search(dropped[0]) if dropped else None
        return (
            match[1] + authority.rpartition("@")[2] + slash + path + (closing[0] if closing else "")
        )

    return _URL.sub(clean, _SPACED_USER.sub(r"\1", text))


def scrub(source: str, text: str) -> str:
    """Clean what a library says about the source of the source's credentials in any form."""
    parts = urlsplit(source)
    secrets = {
        parts.query,
        parts.username,
        parts.password,
        *(value for _, value in parse_qsl(parts.query)),
    }
    known = {form for secret in secrets if secret for form in (secret, unquote(secret))}
    for secret in sorted(known, key=len, reverse=True):
        text = text.replace(secret, "***")
    return redact(text)
