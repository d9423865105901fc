"""Command `loramux top`."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer
from loramux_client import Client
from rich.console import Console

from ..top.seen import Reader
from ..top.watch import show_once, watch
from .common import AsJson, print_json, remote

_TIMEOUT_S = 10.0


@remote
def top(
    client: Client,
    interval_s: Annotated[
        float, typer.Option("--interval-s", min=0.2, max=60, help="Seconds between two looks.")
    ] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="Draw once and end, as where this is no terminal.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Watch what a running server runs: its slots, its speed, its adapters. Ctrl-C ends it.

    With --json the server's status is printed once, as GET /status has it.
    """
    if as_json:
        return print_json(client.status())
    reader = Reader(
        lambda: client.status(timeout_s=_TIMEOUT_S),
        lambda: client.list_adapters(without_modules=True, timeout_s=_TIMEOUT_S),
    )
    console = Console()
    if once or not console.is_terminal:
        return show_once(reader, client.target, console)
    with suppress(KeyboardInterrupt):  # its end
        watch(reader, client.target, console, interval_s)
