"""The command line: `loramux serve | generate | adapters | info | top | health | bench | token | train | fetch |
placement`.

May import: auth, bench, bench.draws, config, environment, fetching, lifecycle, load_settings, logs,
lora_runtime, lora_runtime.training, message_json, placement, process, sources, tls, top.
"""

from __future__ import annotations

from typing import Annotated

import typer

from lora_runtime import __version__

from . import adapters, bench, calls, fetch, health, placement, serve, token, top, train
from .common import GroupedCommand
from .vllm_flags import ServeCommand

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # its tables cut long flags off
    context_settings={"max_content_width": 120},
    help="One frozen base model, many LoRA adapters, one batch.",
)
app.command("serve", cls=ServeCommand)(serve.serve)
app.command("generate")(calls.generate)
app.add_typer(adapters.app, name="adapters")
app.command("info")(calls.info)
app.command("top")(top.top)
app.command("health", context_settings=health.AS_THEY_ARE)(health.health)
app.command("bench", cls=GroupedCommand)(bench.bench)
app.command("token", short_help="Make a bearer token and its entry for --auth-file.")(token.token)
app.command("fetch", short_help="Fetch a base model into a directory.")(fetch.fetch)
app.command("placement")(placement.placement)
app.command("train", cls=GroupedCommand)(train.train)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"loramux {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def main() -> None:
    """Run the command line: entry point of the console script."""
    app()
