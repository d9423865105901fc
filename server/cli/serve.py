"""Command `loramux serve`."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import structlog
import typer
from pydantic.fields import FieldInfo

from lora_runtime import EngineConfig

from ..config import Policy, Settings
from ..environment import from_json, items, pairs, service_links
from ..load_settings import load
from ..sources import REPEATED, SettingsError, flag_of, variable_of
from .common import fail, set_parameters
from .vllm_flags import PASSED_OVER

_ENGINE = {setting.name for setting in EngineConfig.settings()}
_METAVARS: dict[Any, str] = {
    int: "INT",
    float: "FLOAT",
    str: "TEXT",
    Path | None: "PATH",
    list[Path]: "DIRECTORY",
    dict[str, str]: "NAME=DIRECTORY",
    dict[str, Policy]: "JSON",
}


def serve(context: typer.Context, config: Path | None = None, **flags: Any) -> None:
    """Load the base model and serve it with its adapters over gRPC and HTTP.

    Every flag can also be set as LORAMUX_<NAME> in the environment, where an empty variable is as
    none, or as a key in the --config file; flags win over the environment, the environment over
    the file.
    """
    flags["adapters"] = _parse("adapters", pairs, flags["adapters"])
    flags["metrics_names"] = _parse("metrics_names", _items, flags["metrics_names"])
    flags["policies"] = _parse("policies", from_json, flags["policies"])
    try:
        settings = load(flags, config)
    except SettingsError as error:
        fail("\n".join(f"settings: {problem}" for problem in error.problems), 2)
    from .. import logs

    logs.configure(settings.log_format, settings.log_level)
    if links := service_links(os.environ):
        structlog.get_logger("loramux.server").info(
            "variables of a Kubernetes Service are not settings: enableServiceLinks: false in the "
            "pod's spec, or another name of the Service, leaves them out",
            variables=links,
        )
    if unused := context.meta.get(PASSED_OVER):
        structlog.get_logger("loramux.server").info("flags without effect here", flags=unused)
    # torch is loaded only where it is needed: the other commands and --help stay quick
    from ..lifecycle.ending import leave
    from ..process import serve

    logs.adopt_libraries()
    leave(asyncio.run(serve(settings)))


def _parameters() -> list[inspect.Parameter]:
    """Parameters with one flag per setting, so that a setting is described in one place only."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    fields = sorted(Settings.model_fields.items(), key=lambda item: item[0] in _ENGINE)
    option = typer.Option(
        "--config",
        envvar="LORAMUX_CONFIG",
        show_envvar=False,
        metavar="FILE",
        help="YAML file with settings; or LORAMUX_CONFIG. (default: none)",
    )
    config = Annotated[Path | None, option]
    return [
        inspect.Parameter("context", keyword, annotation=typer.Context),
        inspect.Parameter("config", keyword, default=None, annotation=config),
        *(
            inspect.Parameter(name, keyword, default=None, annotation=_option(name, field))
            for name, field in fields
        ),
    ]


def _option(name: str, field: FieldInfo) -> Any:
    # numbers and choices are texts here: Settings says what is wrong with them, and where
    plain: Any = list[str] if name in REPEATED else bool if field.annotation is bool else str
    flag = flag_of(name)
    declarations = [f"{flag}/--no-{flag[2:]}"] if plain is bool else [flag]
    panel = "Engine" if name in _ENGINE else None  # beside the others under "Options"
    return Annotated[
        plain | None,
        typer.Option(
            *declarations,
            help=_help(name, field),
            metavar=_metavar(field),
            show_default=False,
            rich_help_panel=panel,
        ),
    ]


def _help(name: str, field: FieldInfo) -> str:
    variable = f"{variable_of(name)}, with commas; " if name in REPEATED else ""
    default = "required" if field.is_required() else f"default: {_default(field)}"
    return f"{field.description} ({variable}{default})"


def _default(field: FieldInfo) -> str:
    match field.get_default(call_default_factory=True):
        case None | [] | {}:
            return "none"
        case bool(value):
            return "on" if value else "off"
        case list(value):
            return ",".join(value)
        case float(value):
            return f"{value:g}"
        case value:
            return str(value) or "empty"


def _metavar(field: FieldInfo) -> str | None:
    kind = field.annotation
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    if kind == list[str]:
        return (field.description or "").split()[0].rstrip(",").upper()
    if get_origin(kind) is list and get_origin(get_args(kind)[0]) is Literal:
        return ",".join(get_args(get_args(kind)[0]))
    return _METAVARS.get(kind)


def _items(text: str) -> list[str]:
    if not (found := items(text)):
        raise ValueError("there is nothing in it")
    return found


def _parse(name: str, parse: Callable[[Any], Any], value: Any) -> Any:
    try:
        return None if value is None else parse(value)
    except ValueError as error:
        fail(f"settings: {flag_of(name)}: {error}", 2)


set_parameters(serve, _parameters())
