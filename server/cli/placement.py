"""Command `loramux placement`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..placement.targets import Target
from .common import fail


def placement(
    replicas: Annotated[
        list[str],
        typer.Option(
            "--replica",
            envvar="LORAMUX_PLACEMENT_REPLICAS",
            help="HOST:METRICS_PORT: each address that HOST has is a replica. With "
            "HOST:METRICS_PORT=GRPC_PORT,HTTP_PORT where those are not 50051 and 8000. Repeatable; "
            "in the variable parted by blanks.",
        ),
    ],
    host: Annotated[
        str, typer.Option(envvar="LORAMUX_PLACEMENT_HOST", help="Address to listen at.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            min=1, max=65535, envvar="LORAMUX_PLACEMENT_PORT", help="Port that Envoy asks."
        ),
    ] = 9470,
    interval_s: Annotated[
        float,
        typer.Option(
            min=0.2,
            max=600,
            envvar="LORAMUX_PLACEMENT_INTERVAL_S",
            help="Seconds between two looks at the replicas.",
        ),
    ] = 2.0,
    half_life_s: Annotated[
        float,
        typer.Option(
            min=1,
            envvar="LORAMUX_PLACEMENT_HALF_LIFE_S",
            help="Seconds after which work counts half of what it did.",
        ),
    ] = 300.0,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=1,
            envvar="LORAMUX_PLACEMENT_TOLERANCE",
            help="Part by which a replica's work may differ from the mean before adapters move.",
        ),
    ] = 0.03,
    log_format: Annotated[
        str,
        typer.Option(envvar="LORAMUX_LOG_FORMAT", help="json or console."),
    ] = "json",
) -> None:
    """Tell an Envoy which replicas serve which adapter, by what is asked for and what is loaded.

    Envoy fetches the table and routes by it; without this process it keeps the last one, and what
    is not in it goes by its own policy. /placement on the port shows the table.
    """
    try:
        targets = [Target.parse(text) for text in replicas]
    except ValueError as error:
        fail(f"--replica: {error}", 2)
    if log_format not in ("json", "console"):
        fail(f"--log-format: {log_format!r} is neither json nor console", 2)
    from ..placement.run import run  # what a port takes is not for every command
    from ..placement.settings import Settings

    run(Settings(targets, interval_s, half_life_s, tolerance), host, port, log_format)
