"""Parts that commands share: options that reach a server, JSON output, and ends by errors."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import typer.core
from google.protobuf.message import Message
from loramux_client import CallError, Client

from ..message_json import to_dict
from ..tls import is_loopback

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_TOKEN = "LORAMUX_TOKEN"


class GroupedCommand(typer.core.TyperCommand):
    """Command with many options: its help has them under their panels' names, and cuts none off."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                panel = getattr(parameter, "rich_help_panel", None) or "Options"
                panels.setdefault(panel, []).append(record)
        for panel, records in panels.items():
            with formatter.section(panel):
                formatter.write_dl(records)


def reach(
    target: Annotated[
        str,
        typer.Option("--target", envvar="LORAMUX_TARGET", help="HOST:PORT of a running server."),
    ] = "127.0.0.1:50051",
    tls: Annotated[
        bool,
        typer.Option("--tls", envvar="LORAMUX_TLS", help="Use TLS with the system's authorities."),
    ] = False,
    ca: Annotated[
        Path | None,
        typer.Option(
            "--ca", envvar="LORAMUX_CA", help="PEM file of the server's authority; turns TLS on."
        ),
    ] = None,
    cert: Annotated[
        Path | None,
        typer.Option("--cert", envvar="LORAMUX_CERT", help="PEM file of the client's certificate."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", envvar="LORAMUX_KEY", help="PEM file of its private key."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            envvar="LORAMUX_TOKEN_FILE",
            help=f"File with the bearer token; or the token itself in {_TOKEN}.",
        ),
    ] = None,
) -> Client:
    """Make a client of the server that these options name. Raises CallError."""
    # Who sits at the terminal sees a refusal at once, and decides.
    client = Client(
        target, tls=tls, ca=ca, cert=cert, key=key, token=_token(token_file), retry=False
    )
    if client.token and not client.is_secure and not is_loopback(target.rpartition(":")[0]):
        typer.echo("warning: the token goes to the server without TLS", err=True)
    return client


def remote(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command`, whose first parameter is a Client, the options that make one."""
    options = reach_parameters()
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    def run(**values: Any) -> None:
        connection = {p.name: values.pop(p.name) for p in options}
        try:
            with reach(**connection) as client:
                command(client, **values)
        except CallError as error:
            fail(str(error), 1)
        except UnicodeEncodeError as error:
            fail(f"no text in UTF-8: {ascii(error.object)[:80]}", 2)
        except KeyboardInterrupt:
            fail("cancelled", 130)

    run.__doc__ = command.__doc__
    set_parameters(run, [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *options)])
    return run


def reach_parameters() -> list[inspect.Parameter]:
    """Options of `reach`."""
    return list(inspect.signature(reach, eval_str=True).parameters.values())


def set_parameters(command: Callable[..., Any], parameters: list[inspect.Parameter]) -> None:
    """Make typer see these parameters."""
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}


def print_json(value: Message | list[Any]) -> None:
    typer.echo(
        json.dumps([to_dict(v) for v in value] if isinstance(value, list) else to_dict(value))
    )


def fail(message: str, code: int) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)


def _token(file: Path | None) -> str:
    if file is None:
        return os.environ.get(_TOKEN, "").strip()
    try:
        return file.read_text().strip()
    except OSError as error:
        fail(f"--token-file {file}: {error.strerror}", 2)
