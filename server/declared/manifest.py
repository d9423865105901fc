"""The manifest: a YAML file that names adapters, their sources and policies."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from lora_runtime import MAX_ID_LENGTH, is_remote

from ..config import Policy
from ..files import Stamp, stamp
from ..yaml_files import Loader
from .files import Settling, snapshot
from .types import Declared, Reading

_MAX_BYTES = 16 << 20


def _usable(name: str) -> str:
    if not name.isprintable() or name == "*":
        raise ValueError("must be printable and not '*'")
    return name


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class AdapterSpec(_Strict):
    """One entry.

    `canary_weight`: what share of the requests a new version takes; 0 is all of them.
    `allow_unknown_fields` as Engine.load_adapter has it.
    """

    name: Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH), AfterValidator(_usable)]
    source: str = Field(min_length=1)
    canary_weight: float = Field(0, ge=0, lt=1)
    policy: Policy | None = None
    allow_unknown_fields: bool = False


class ManifestSpec(_Strict):
    """The whole file."""

    adapters: list[AdapterSpec] = Field(default_factory=list)


class ManifestError(Exception):
    """Error for a manifest that is wrong; the message names the entry and the field."""


class Manifest:
    """Reader of one manifest, again and again; keeps its last good state."""

    def __init__(self, path: Path, settle_s: float) -> None:
        self._path = path
        self._settling = Settling(settle_s)
        self._seen: Stamp = None
        self._specs: tuple[AdapterSpec, ...] | None = None
        self._problem = ""

    def read(self) -> Reading:
        """Read the entries, those with local sources with the state of their files."""
        try:
            seen = stamp(self._path)
            if seen is None or seen != self._seen:
                self._specs = parse(self._path)
                self._seen, self._problem = seen, ""
        except OSError as error:
            self._seen, self._problem = None, f"cannot be read: {error.strerror}"
        except ManifestError as error:
            self._seen, self._problem = None, str(error)
        names = [spec.name for spec in self._specs or ()]
        adapters = {spec.name: self._declare(spec) for spec in self._specs or ()}
        self._settling.end_look()
        duplicates = tuple(name for name, count in Counter(names).items() if count > 1)
        return Reading(
            str(self._path), adapters, duplicates, self._problem, self._specs is not None
        )

    def _declare(self, spec: AdapterSpec) -> Declared:
        policy = spec.policy.to_engine() if spec.policy else None
        declared = Declared(
            spec.name,
            spec.source,
            spec.canary_weight,
            policy,
            allow_unknown_fields=spec.allow_unknown_fields,
        )
        if is_remote(spec.source):
            return declared
        directory = self._local(spec.source)
        try:
            files = snapshot(directory)
            unsettled = self._settling.reason(directory, files)
        except OSError as error:
            files, unsettled = None, f"the directory cannot be read: {error.strerror}"
        return replace(declared, source=str(directory), fingerprint=files, unsettled=unsettled)

    def _local(self, source: str) -> Path:
        return self._path.parent / source  # an absolute source stays what it is


def parse(path: Path) -> tuple[AdapterSpec, ...]:
    """Parse the file's entries. Raises OSError and ManifestError."""
    with path.open("rb") as stream:
        data = stream.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ManifestError(f"is larger than {_MAX_BYTES} bytes")
    try:
        content = yaml.load(data, Loader=Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise ManifestError(f"is not YAML: {error}") from error
    try:
        return tuple(ManifestSpec.model_validate({} if content is None else content).adapters)
    except ValidationError as error:
        raise ManifestError(
            "; ".join(_problem(content, e["loc"], e["msg"]) for e in error.errors())
        ) from error


def _problem(content: Any, location: tuple[int | str, ...], message: str) -> str:
    """Problem text of one error, with the entry's name in place of its number."""
    match location:
        case ("adapters", int() as index, *rest):
            entry = content["adapters"][index]
            name = entry.get("name") if isinstance(entry, dict) else None
            where = f"adapter {name!r}" if isinstance(name, str) else f"adapter number {index + 1}"
            return ": ".join([where, *([".".join(map(str, rest))] if rest else []), message])
    return ": ".join([*([".".join(map(str, location))] if location else []), message])
