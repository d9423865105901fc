"""The file of bearer tokens: read, checked, read again when it changes."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import structlog
import yaml
from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError

from ..files import stamp

log = structlog.get_logger("loramux.server")
_BASE_PATTERNS = ("", "base")
_CHECK_EVERY_S = 1.0
_PREFIX = "lmx_"


class AuthFileError(Exception):
    """The file cannot be used. The message never has any of its content in it."""


class Caller(BaseModel):
    """Whom a token stands for, and what it may do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    token_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    adapters: tuple[str, ...]
    """Globs of adapter ids; "" or "base" is the base model, "*" is everything."""
    admin: bool = False
    """Load, unload, roll back, canary and policy, of the adapters in scope."""
    read: bool = True
    """List and get the adapters in scope, and the server's info."""

    def may_use(self, adapter_id: str) -> bool:
        """`adapter_id` "" is the base model. "*", all adapters at once, needs the pattern "*" itself."""
        if not adapter_id:
            return any(p in (*_BASE_PATTERNS, "*") for p in self.adapters)
        if adapter_id == "*":
            return "*" in self.adapters
        return any(fnmatchcase(adapter_id, p) for p in self.adapters if p not in _BASE_PATTERNS)


ANYONE = Caller(name="anyone", token_sha256="0" * 64, adapters=("*",), admin=True)
"""The caller where the server has no token file."""
_ENTRIES = TypeAdapter(list[Caller])


class TokenFile:
    """The tokens of one file. A changed file counts within a second; one that is bad then leaves the last good one.

    Looking at the file when a call comes, rather than on a signal, suits files that an orchestrator replaces.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._stamp = stamp(path)
        self._entries = _read(path)
        self._checked_at = clock()

    def __len__(self) -> int:
        return len(self._entries)

    def caller(self, token: str) -> Caller | None:
        """Whom `token` stands for. Takes as long for a wrong token as for a right one."""
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
        if seen == self._stamp:
            return
        self._stamp = seen
        try:
            self._entries = _read(self._path)
        except AuthFileError as error:
            log.error("the token file is bad: the former tokens stay valid", error=str(error))
        else:
            log.info("token file read", tokens=len(self._entries))


def token_hash(token: str) -> str:
    """A plain hash is enough: tokens are random and long, there is nothing to guess."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()


def new_token() -> str:
    """256 random bits."""
    return _PREFIX + secrets.token_urlsafe(32)


def _read(path: Path) -> list[Caller]:
    try:
        entries = _ENTRIES.validate_python(yaml.safe_load(path.read_text()))
    except (OSError, UnicodeError) as error:
        raise AuthFileError(f"{path.name} cannot be read: {type(error).__name__}") from None
    except yaml.YAMLError as error:  # its text quotes the file
        mark = getattr(error, "problem_mark", None)
        raise AuthFileError(f"{path.name} is not YAML{f', line {mark.line + 1}' if mark else ''}") from None
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['type']}" for e in error.errors()]
        raise AuthFileError(f"{path.name}: {'; '.join(problems)}") from None
    for field in ("name", "token_sha256"):
        values = [getattr(e, field) for e in entries]
        if len(set(values)) < len(values):
            raise AuthFileError(f"{path.name}: two entries have the same {field}")
    return entries
