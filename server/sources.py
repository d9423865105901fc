"""Sources of settings: flags, LORAMUX_* variables, a YAML file. They count in that order."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin

import yaml
from pydantic.fields import FieldInfo

from . import environment
from .environment import nearest, shown
from .yaml_files import Loader

Fields = Mapping[str, FieldInfo]
REPEATED = {
    "adapters": "--adapter",
    "adapter_roots": "--adapter-root",
    "adapter_sources": "--adapter-source",
    "allow_unknown_fields": "--allow-unknown-fields",
    "http_cors_origins": "--http-cors-origin",
    "served_model_names": "--served-model-name",
}
"""Flags that are given once for each item."""


class SettingsError(Exception):
    """Error for settings that are wrong: one line for each problem, which names its place."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problems))


@dataclass(frozen=True)
class Given:
    """One setting's value, and the flag, variable or key that it came from."""

    value: Any
    origin: str


@dataclass(frozen=True)
class Found:
    """Settings that one or more sources give, by name; and what they have that is none."""

    given: dict[str, Given]
    problems: list[str]

    def under(self, other: Found) -> Found:
        """Both, where `other` counts."""
        return Found(self.given | other.given, self.problems + other.problems)


def gather(fields: Fields, flags: Mapping[str, Any], config_file: Path | None) -> Found:
    """Gather what all sources give. Raises SettingsError for a file that cannot be read."""
    file = Found({}, []) if config_file is None else _from_file(fields, config_file)
    return file.under(_from_environment(fields, os.environ)).under(_from_flags(fields, flags))


def flag_of(name: str) -> str:
    return REPEATED.get(name, f"--{name.replace('_', '-')}")


def variable_of(name: str) -> str:
    return f"{environment.PREFIX}{name.upper()}"


def _from_flags(fields: Fields, flags: Mapping[str, Any]) -> Found:
    values = {name: value for name, value in flags.items() if value not in (None, [], {})}
    return Found(
        {name: Given(value, flag_of(name)) for name, value in values.items() if name in fields},
        [
            f"{flag_of(name)} is not a setting{nearest(name, fields)}"
            for name in values
            if name not in fields
        ],
    )


def _from_environment(fields: Fields, environ: Mapping[str, str]) -> Found:
    found = Found({}, [])
    names = {variable_of(name): name for name in fields}
    for variable, text in environment.variables(environ).items():
        if variable not in names:
            found.problems.append(f"{variable} is not a setting{_meant(variable, fields)}")
            continue
        name = names[variable]
        try:
            found.given[name] = Given(_parse(fields[name].annotation, text), variable)
        except ValueError as error:
            found.problems.append(f"{variable}: {error}")
    return found


def _meant(variable: str, fields: Fields) -> str:
    known = [variable_of(name) for name in fields] + sorted(environment.OTHERS)
    start = len(environment.PREFIX)
    return nearest(variable[start:].upper(), [name[start:] for name in known], environment.PREFIX)


def _parse(kind: Any, text: str) -> Any:
    """A variable's text as far as it has parts; the parts' types come later. Raises ValueError."""
    if get_origin(kind) is list:
        return environment.items(text)
    if kind == dict[str, str]:
        return environment.mapping(text)
    return environment.from_json(text) if get_origin(kind) is dict else text


def _from_file(fields: Fields, path: Path) -> Found:
    found = Found({}, [])
    for key, value in _read(path).items():
        if key in fields:
            found.given[key] = Given(value, f"{path}: {key}")
        else:
            meant = nearest(str(key).replace("-", "_"), fields)
            found.problems.append(f"{path}: {shown(key)} is not a setting{meant}")
    return found


def _read(path: Path) -> dict[Any, Any]:
    try:
        content = yaml.load(path.read_bytes(), Loader=Loader)
    except FileNotFoundError:
        raise SettingsError([f"config file {path} does not exist"]) from None
    except OSError as error:
        raise SettingsError([f"config file {path} cannot be read: {error.strerror}"]) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        text = " ".join(str(error).split())
        raise SettingsError([f"config file {path} is not YAML: {text}"]) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError([f"config file {path} is not a YAML mapping"])
    return content
