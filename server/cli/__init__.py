"""The command line: `loramux serve | generate | adapters | info`."""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from . import client
from .config import Settings, SettingsError, load

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="One frozen base model, many LoRA adapters, one batch.")
adapters_app = typer.Typer(no_args_is_help=True, help="Load, unload and list a running server's adapters.")
app.add_typer(adapters_app, name="adapters")

Target = Annotated[str, typer.Option("--target", envvar="LORAMUX_TARGET", help="HOST:PORT of a running server.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_TARGET = "127.0.0.1:50051"


def main() -> None:
    """Entry point of the console script."""
    app()


def _serve(config: Path | None = None, **flags: Any) -> None:
    """Load the base model and serve it with its adapters over gRPC.

    Every flag can also be set as LORAMUX_<NAME> in the environment or as a key in the --config file;
    flags win over the environment, the environment over the file.
    """
    flags["adapters"] = dict(_split_adapter(a) for a in flags["adapters"] or [])
    try:
        settings = load(flags, config)
    except SettingsError as error:
        _fail(f"settings: {error}", 2)
    # torch is loaded only where it is needed: the other commands and --help stay quick
    from . import logs
    from .app import serve

    logs.configure(settings.log_format, settings.log_level)
    raise typer.Exit(asyncio.run(serve(settings)))


def _serve_signature() -> inspect.Signature:
    """One flag per setting, so that a setting is described in one place only."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("config", keyword, default=None, annotation=Annotated[
            Path | None, typer.Option("--config", help="YAML file with settings.")])
    ]
    for name, field in Settings.model_fields.items():
        parameters.append(inspect.Parameter(name, keyword, default=None, annotation=_option(name, field)))
    return inspect.Signature(parameters)


def _option(name: str, field: FieldInfo) -> Any:
    kinds: dict[str, tuple[str, Any]] = {
        "adapters": ("--adapter", list[str] | None), "adapter_roots": ("--adapter-root", list[Path] | None)}
    plain = field.annotation if field.annotation in (int, float, bool) else str
    flag, kind = kinds.get(name, (f"--{name.replace('_', '-')}", plain | None))
    default = "" if field.is_required() or field.default_factory else f" [default: {field.default}]"
    declarations = [f"{flag}/--no-{flag[2:]}"] if kind == (bool | None) else [flag]
    return Annotated[kind, typer.Option(*declarations, help=f"{field.description}{default}", show_default=False)]


_serve.__signature__ = _serve_signature()  # type: ignore[attr-defined]
_serve.__annotations__ = {p.name: p.annotation for p in _serve.__signature__.parameters.values()}  # type: ignore[attr-defined]
app.command("serve")(_serve)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads standard input.")],
    adapter: Annotated[str, typer.Option("--adapter", "-a", help="Adapter id; empty is the base model.")] = "",
    chat: Annotated[bool, typer.Option(help="Send the prompt as a user's chat message.")] = True,
    max_new_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    temperature: Annotated[float | None, typer.Option(min=0)] = None,
    top_p: Annotated[float | None, typer.Option()] = None,
    top_k: Annotated[int | None, typer.Option(min=0)] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Stop string; repeatable.")] = None,
    target: Target = _TARGET,
    as_json: AsJson = False,
) -> None:
    """Stream a completion to the terminal."""
    text = sys.stdin.read() if prompt == "-" else prompt
    options = {
        "max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
    fields: dict[str, Any] = {k: v for k, v in options.items() if v is not None}
    fields |= {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}

    def run() -> None:
        for event in client.stream(target, adapter_id=adapter, stop=stop or [], **fields):
            typer.echo(json.dumps(client.to_dict(event)) if as_json else event.text, nl=as_json)
            sys.stdout.flush()
        if not as_json:
            typer.echo()

    _call(run)


@adapters_app.command("load")
def adapters_load(
    path: Annotated[str, typer.Argument(help="Directory below one of the server's adapter roots.")],
    name: Annotated[str, typer.Option("--name", help="Adapter id; default: the directory's name.")] = "",
    target: Target = _TARGET,
    as_json: AsJson = False,
) -> None:
    """Load an adapter, or move its id to a new version."""
    _call(lambda: _print_adapters([client.load_adapter(target, path, name)], as_json))


@adapters_app.command("unload")
def adapters_unload(
    name: Annotated[str, typer.Argument(help="Adapter id.")],
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for requests that use it.")] = 0,
    target: Target = _TARGET,
    as_json: AsJson = False,
) -> None:
    """Unload an adapter and free its memory."""
    _call(lambda: _print_adapters([client.unload_adapter(target, name, timeout)], as_json))


@adapters_app.command("list")
def adapters_list(target: Target = _TARGET, as_json: AsJson = False) -> None:
    """List the loaded adapters."""
    _call(lambda: _print_adapters(client.list_adapters(target), as_json))


@app.command()
def info(target: Target = _TARGET, as_json: AsJson = False) -> None:
    """Show what a running server runs."""

    def show() -> None:
        fields = client.to_dict(client.server_info(target))
        if as_json:
            typer.echo(json.dumps(fields))
            return
        for key, value in fields.items():
            typer.echo(f"{key:16} {json.dumps(value) if isinstance(value, dict) else value}")

    _call(show)


def _print_adapters(adapters: list[Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([client.to_dict(a) for a in adapters]))
        return
    typer.echo(f"{'ADAPTER':24} {'VERSION':12} {'RANK':>4} {'MODULES':>7} {'BYTES':>12} {'LEASES':>6}")
    for a in adapters:
        typer.echo(
            f"{a.adapter_id:24} {a.version[:12]:12} {a.max_rank:4} {len(a.modules):7} {a.num_bytes:12} {a.leases:6}")


def _split_adapter(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        _fail(f"--adapter {text!r} is not NAME=DIRECTORY", 2)
    return name, path


def _call(run: Callable[[], None]) -> None:
    try:
        run()
    except client.CallError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("cancelled", 130)


def _fail(message: str, code: int) -> Any:
    typer.echo(message, err=True)
    raise typer.Exit(code)
