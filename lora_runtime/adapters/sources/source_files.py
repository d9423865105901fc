"""Files of an adapter that are fetched, their limits, and messages without a URL's credentials."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from ...errors import AdapterError, AdapterMissingError
from ..peft.absent import CONFIG, WITHOUT_INDEX, is_shard
from ..peft.config import MAX_CONFIG_BYTES
from ..peft.generation import GENERATION_CONFIG
from ..peft.shards import missing_weights
from ..peft.shards_index import INDEX, MAX_INDEX_BYTES, WEIGHTS, parse_index

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

    Pickled weights have no limit because they are never fetched. `weights` is that of all shards
    together, of which `fetched` bytes are there.
    """

    weights: int
    fetched: int = 0

    def of(self, name: str) -> int:
        if name.endswith(".safetensors"):
            return max(0, self.weights - self.fetched)
        own = {
            CONFIG: MAX_CONFIG_BYTES,
            GENERATION_CONFIG: MAX_CONFIG_BYTES,
            INDEX: MAX_INDEX_BYTES,
        }
        return own.get(name, MAX_TOKENIZER_BYTES)

    def beside(self, sizes: Mapping[str, int | None]) -> Limits:
        """Limits of what is fetched after files of these sizes."""
        weights = (size or 0 for name, size in sizes.items() if name.endswith(".safetensors"))
        return replace(self, fetched=sum(weights))

    def check(self, source: str, name: str, size: int | None) -> None:
        """Check a file's size.

        Raises AdapterError. One that is not known passes: it is counted while the file is fetched.
        """
        if size is not None and size > self.of(name):
            others = " that the other shards leave" if self.fetched else ""
            raise AdapterError(
                f"{named(source)}: {name} is larger than the limit of {self.of(name)} bytes{others}"
            )


def check_complete(source: str, found: Iterable[str], listed: Iterable[str] = ()) -> None:
    """Check that the required files are there, or an index of shards in place of the weights.

    Raises AdapterError that names the first one missing, AdapterMissingError where that is the
    configuration; `listed`: all that is known to lie there.
    """
    found = set(found)
    if CONFIG not in found:
        raise AdapterMissingError(f"{named(source)}: {CONFIG} is missing")
    if INDEX in found or WEIGHTS in found:
        return
    if any(map(is_shard, listed)):
        raise AdapterError(f"{named(source)}: the weights are in shards, and {WITHOUT_INDEX}")
    raise AdapterError(f"{named(source)}: {WEIGHTS} is missing (pickled weights are never fetched)")


def missing_adapter_file(directory: Path, names: Collection[str]) -> str:
    """Name of the first file that an adapter cannot do without and that is not among the `names` of
    its directory's files, or "". Weights are one file, or an index and the shards that it names."""
    return CONFIG if CONFIG not in names else missing_weights(directory, names)


def shards_of(source: str, index: bytes) -> list[str]:
    """Names of the shards in an index. Raises AdapterError for what is none."""
    try:
        return sorted(parse_index(index))
    except AdapterError as error:
        raise AdapterError(f"{named(source)}: {error}") from error


def missing_shard(source: str, name: str) -> AdapterError:
    """Make the error for a shard that the index names."""
    return AdapterError(f"{named(source)}: {name} is missing, which {INDEX} names")


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
