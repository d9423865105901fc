"""Command `loramux health`, for the list of commands: `entry` runs it without the others."""

from __future__ import annotations

import typer

from ..lifecycle.probe import main


def health(context: typer.Context) -> None:
    """Ask a running server whether it is ready or live: for probes that run a command."""
    raise typer.Exit(main(context.args))


AS_THEY_ARE = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
"""Settings with which the options go to `main`."""
