"""The command line: `loramux serve | generate | adapters | info | token | train`.

May import: app, auth, client, config, ending, logs, lora_runtime, lora_runtime.training, tls.
"""

from __future__ import annotations

import typer

from . import adapters, calls, serve, token, train

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="One frozen base model, many LoRA adapters, one batch.",
)
app.command("serve")(serve.serve)
app.command("generate")(calls.generate)
app.add_typer(adapters.app, name="adapters")
app.command("info")(calls.info)
app.command("token")(token.token)
app.command("train")(train.train)


def main() -> None:
    """Run the command line: entry point of the console script."""
    app()
