"""Command `loramux serve`."""

from __future__ import annotations

import asyncio
import inspect
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from lora_runtime import EngineConfig

from ..config import Settings, SettingsError, load
from .common import fail, set_parameters

_ENGINE = {setting.name for setting in EngineConfig.settings()}
_REPEATED = {
    "adapters": "--adapter",
    "adapter_roots": "--adapter-root",
    "adapter_sources": "--adapter-source",
}


def serve(config: Path | None = None, **flags: Any) -> None:
    """Load the base model and serve it with its adapters over gRPC.

    Every flag can also be set as LORAMUX_<NAME> in the environment or as a key in the --config
    file; flags win over the environment, the environment over the file.
    """
    flags["adapters"] = dict(_split_adapter(a) for a in flags["adapters"] or [])
    flags["policies"] = _parse_json("--policies", flags["policies"])
    try:
        settings = load(flags, config)
    except SettingsError as error:
        fail(f"settings: {error}", 2)
    from .. import logs

    logs.configure(settings.log_format, settings.log_level)
    # torch is loaded only where it is needed: the other commands and --help stay quick
    from ..app import serve

    logs.adopt_libraries()
    raise typer.Exit(asyncio.run(serve(settings)))


def _parameters() -> list[inspect.Parameter]:
    """Parameters with one flag per setting, so that a setting is described in one place only."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    config = Annotated[Path | None, typer.Option("--config", help="YAML file with settings.")]
    return [
        inspect.Parameter("config", keyword, default=None, annotation=config),
        *(
            inspect.Parameter(name, keyword, default=None, annotation=_option(name, field))
            for name, field in Settings.model_fields.items()
        ),
    ]


def _option(name: str, field: FieldInfo) -> Any:
    plain: Any = field.annotation if field.annotation in (int, float, bool) else str
    if name in _REPEATED:
        plain = list[Path] if field.annotation == list[Path] else list[str]
    flag = _REPEATED.get(name, f"--{name.replace('_', '-')}")
    has_default = (
        not field.is_required() and not field.default_factory and field.default not in (None, "")
    )
    # In brackets it would be markup.
    default = f" (default: {field.default})" if has_default else ""
    declarations = [f"{flag}/--no-{flag[2:]}"] if plain is bool else [flag]
    help_text = f"{field.description}{default}"
    panel = "Engine" if name in _ENGINE else None  # beside the others under "Options"
    return Annotated[
        plain | None,
        typer.Option(*declarations, help=help_text, show_default=False, rich_help_panel=panel),
    ]


def _split_adapter(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        fail(f"--adapter {text!r} is not NAME=DIRECTORY", 2)
    return name, path


def _parse_json(flag: str, text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except json.JSONDecodeError as error:
        fail(f"{flag} is not JSON: {error}", 2)


set_parameters(serve, _parameters())
