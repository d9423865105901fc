"""The file of bearer tokens: read, checked, read again when it changes."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import structlog
import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from lora_runtime import MAX_PRIORITY

from ..files import stamp
from ..yaml_files import DuplicateKeyError, Loader

log = structlog.get_logger("loramux.server")
_BASE_PATTERNS = ("", "base")
_CHECK_EVERY_S = 1.0
_PREFIX = "lmx_"
_MAX_BYTES = 4 << 20


class AuthFileError(Exception):
    """Error for a file that cannot be used. The message never has any of its content in it."""


class Caller(BaseModel):
    """Entry of the file: whom a token stands for, and what it may do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    token_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    adapters: tuple[str, ...]
    """Globs of adapter ids; "" or "base" is the base model, "*" is everything."""
    admin: bool = False
    """Right to load, unload, roll back, set canary and policy, of the adapters in scope."""
    read: bool = True
    """Right to list and get the adapters in scope, and to get the server's info."""
    shares: bool = False
    """Right, beside `admin`, to give adapters more than the operator's policy does: to pin them, to
    weigh them above others, to lift limits."""
    max_priority: Annotated[int, Field(strict=True, ge=0, le=MAX_PRIORITY)] = 0
    """Highest priority that its requests may have."""
    max_waiting: Annotated[int, Field(strict=True, ge=0)] = 0
    """Sequences that may wait beside those that can run; 0 is half of the server's max_waiting."""

    def may_use(self, adapter_id: str) -> bool:
        """True if the caller may use an adapter; "" is the base model.

        "*", all adapters at once, needs the pattern "*" itself.
        """
        if not adapter_id:
            return any(p in (*_BASE_PATTERNS, "*") for p in self.adapters)
        if adapter_id == "*":
            return "*" in self.adapters
        return any(fnmatchcase(adapter_id, p) for p in self.adapters if p not in _BASE_PATTERNS)


ANYONE = Caller.model_construct(
    name="", token_sha256="", adapters=("*",), admin=True, shares=True, max_priority=MAX_PRIORITY
)
"""The caller where the server has no token file: it has no name, and so no share of its own."""


def keys_of(who: Caller) -> list[str]:
    """Give the keys of a caller's own turns: none where callers have no names."""
    return [] if who is ANYONE else [who.name]


_ENTRIES = TypeAdapter(list[Caller])


class TokenFile:
    """Tokens of one file.

    A changed file counts within a second; one that is bad then leaves the last good one. Looking at
    the file when a call comes, rather than on a signal, suits files that an orchestrator replaces.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._stamp = stamp(path)
        self._entries = _read(path)
        self._problem = ""
        self._checked_at = clock()

    def __len__(self) -> int:
        return len(self._entries)

    def caller(self, token: str) -> Caller | None:
        """Find whom `token` stands for. Takes as long for a wrong token as for a right one."""
        self._refresh()
        digest, found = token_hash(token), None
        for entry in self._entries:  # all of them: where the search ends must tell nothing
            if hmac.compare_digest(entry.token_sha256, digest):
                found = entry
        return found

    def _refresh(self) -> None:
        now = self._clock()
        if now - self._checked_at < _CHECK_EVERY_S:
            return
        self._checked_at = now
        seen = stamp(self._path)
        if seen is not None and seen == self._stamp:
            self._problem = ""
            return
        try:
            self._entries = _read(self._path)
        except AuthFileError as error:
            # Tried again: the file may be the same and readable in a second.
            if str(error) != self._problem:
                log.error("the token file is bad: the former tokens stay valid", error=str(error))
            self._problem = str(error)
        else:
            self._stamp, self._problem = seen, ""
            log.info("token file read", tokens=len(self._entries))


def bearer_token(values: Sequence[str | bytes]) -> str:
    """Find the token in the values of a call's `authorization`; empty if there is none, or several."""
    if len(values) != 1 or not isinstance(values[0], str):
        return ""
    scheme, _, token = values[0].partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def token_hash(token: str) -> str:
    """Hash of a token.

    A plain one is enough: tokens are random and long, there is nothing to guess.
    """
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()


def new_token() -> str:
    """Make a token of 256 random bits."""
    return _PREFIX + secrets.token_urlsafe(32)


def _read(path: Path) -> list[Caller]:
    try:
        if not isinstance(content := _load(path), list):
            raise AuthFileError(
                f"{path.name} is no list of entries, as `loramux token` writes them"
            )
        entries = _ENTRIES.validate_python(content)
    except ValidationError as error:
        problems = [f"{_where(e['loc'])}: {e['type']}" for e in error.errors()]
        raise AuthFileError(f"{path.name}: {'; '.join(problems)}") from None
    for field in ("name", "token_sha256"):
        values = [getattr(e, field) for e in entries]
        if len(set(values)) < len(values):
            raise AuthFileError(f"{path.name}: two entries have the same {field}")
    return entries


def _load(path: Path) -> Any:
    """Load the file as YAML. Raises AuthFileError without reasons that quote the file."""
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise AuthFileError(f"{path.name} is larger than {_MAX_BYTES} bytes")
        return yaml.load(data, Loader=Loader)
    except OSError as error:
        raise AuthFileError(f"{path.name} cannot be read: {type(error).__name__}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = "has a key twice" if isinstance(error, DuplicateKeyError) else "is not YAML"
        raise AuthFileError(
            f"{path.name} {reason}{f', line {mark.line + 1}' if mark else ''}"
        ) from None
    except (ValueError, RecursionError) as error:
        # Such as a date that there is not, or lists in lists in lists.
        raise AuthFileError(f"{path.name} is not YAML: {type(error).__name__}") from None


def _where(location: tuple[int | str, ...]) -> str:
    """Place of an error: the entry's number and field, of fields that there are; others may be
    anything, a token too."""
    known = [str(part) for part in location if isinstance(part, int) or part in Caller.model_fields]
    return ".".join(known) or "file"
