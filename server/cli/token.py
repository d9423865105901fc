"""Command `loramux token`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from lora_runtime import MAX_PRIORITY

from ..auth.tokens import new_token, token_hash


def token(
    name: Annotated[str, typer.Argument(help="Whom the token is for; shown in the server's log.")],
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter",
            help="Glob of the adapter ids it may use; base: the base model; *: all; repeatable.",
        ),
    ] = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="May load, unload and change the adapters in scope.")
    ] = False,
    shares: Annotated[
        bool,
        typer.Option(
            "--shares",
            help="May, as an admin, pin adapters, weigh them above others and lift their limits.",
        ),
    ] = False,
    max_priority: Annotated[
        int,
        typer.Option(min=0, max=MAX_PRIORITY, help="Highest priority of its requests."),
    ] = 0,
    max_waiting: Annotated[
        int,
        typer.Option(
            min=0,
            help="Sequences that may wait beside those that can run; 0: half of the server's.",
        ),
    ] = 0,
) -> None:
    """Make a bearer token (on standard error) and its entry for --auth-file (on standard output).

    `loramux token ci --adapter '*' >> tokens.yaml` adds the entry and shows the token, which is
    kept nowhere.
    """
    secret = new_token()
    typer.echo(secret, err=True)
    # JSON strings are YAML strings
    typer.echo(
        f"- name: {json.dumps(name)}\n  token_sha256: {token_hash(secret)}\n"
        f"  adapters: {json.dumps(adapter or [])}\n  admin: {json.dumps(admin)}\n"
        f"  shares: {json.dumps(shares)}\n  max_priority: {max_priority}\n"
        f"  max_waiting: {max_waiting}"
    )
