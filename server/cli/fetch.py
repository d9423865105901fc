"""Command `loramux fetch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import fail


def fetch(
    source: Annotated[
        str,
        typer.Argument(
            help="hf://org/name, a folder of a store such as s3://bucket/folder, or a tar archive "
            "at https:// or http://."
        ),
    ],
    directory: Annotated[Path, typer.Argument(help="Where the base shall be.")],
    revision: Annotated[
        str, typer.Option(help="Of a hub: a commit, a tag or a branch; the default branch if none.")
    ] = "",
    sha256: Annotated[str, typer.Option(help="Of an archive, which needs it.")] = "",
) -> None:
    """Fetch a base model into a directory, whole or not at all, unless it is there.

    A hub's token is in HF_TOKEN, stores have their own variables (AWS_ACCESS_KEY_ID, ...), and an
    archive's Authorization header is in LORAMUX_FETCH_AUTHORIZATION, which is refused over http://
    but to this machine.
    """
    from ..fetching.errors import FetchError
    from ..fetching.fetch import fetch as bring  # hubs and stores are not for every command

    try:
        fetched = bring(source, directory, revision, sha256)
    except FetchError as error:
        fail(str(error), 1)
    typer.echo(f"{directory}: {'fetched' if fetched else 'is there already'}")
