"""Settings from all their sources, or all that is wrong with them, each with its place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from .config import Policy, Settings
from .environment import nearest, shown
from .sources import Given, SettingsError, flag_of, gather, variable_of


def load(flags: dict[str, Any], config_file: Path | None = None) -> Settings:
    """Merge all sources. Raises SettingsError."""
    found = gather(Settings.model_fields, flags, config_file)
    problems = list(found.problems)
    try:
        settings = Settings(**{name: one.value for name, one in found.given.items()})
        settings.engine_config()
    except ValidationError as error:
        problems += [_problem(e, found.given) for e in error.errors()]
    except ValueError as error:
        problems.append(_with_origins(str(error), found.given))
    if problems:
        raise SettingsError(problems)
    return settings


def _problem(error: ErrorDetails, given: dict[str, Given]) -> str:
    """Give one line: where the value came from, what is wrong, and the value."""
    if not error["loc"]:
        return _with_origins(error["msg"].removeprefix("Value error, "), given)
    name, *inner = map(str, error["loc"])
    if name not in given:
        return f"{name} is needed: {flag_of(name)}, {variable_of(name)} or {name} in --config"
    place = ": ".join([given[name].origin, *([".".join(inner)] if inner else [])])
    if error["type"] == "extra_forbidden":
        return f"{place} is not a setting of a policy{nearest(inner[-1], Policy.model_fields)}"
    return f"{place}: {error['msg']}, got {shown(error['input'])}"


def _with_origins(message: str, given: dict[str, Given]) -> str:
    """Give a message about several settings, and what each of them is and where it is from."""
    values = []
    for name, field in Settings.model_fields.items():
        if not re.search(rf"\b{name}\b", message):
            continue
        if name in given:
            values.append(f"{given[name].origin} is {shown(given[name].value)}")
        else:
            default = field.get_default(call_default_factory=True)
            values.append(f"{name} is {shown(default)} by default")
    return f"{message} ({', '.join(values)})" if values else message
