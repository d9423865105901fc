"""Command `loramux adapters`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from loramux.v1 import adapters_pb2 as pb
from loramux_client import Client

from lora_runtime import AdapterError, BaseModelError

from .common import AsJson, fail, print_json, remote

app = typer.Typer(no_args_is_help=True, help="Load, change, list and inspect adapters.")

Name = Annotated[str, typer.Argument(help="Adapter id.")]
Weight = Annotated[
    float | None, typer.Option(min=0, help="Share of the served tokens beside the other adapters.")
]
MaxRunning = Annotated[
    int | None, typer.Option(min=0, help="Requests that may run at once; 0: no limit.")
]
MaxWaiting = Annotated[
    int | None, typer.Option(min=0, help="Sequences that may wait; 0: half of the server's.")
]
TokensPerMinute = Annotated[
    int | None, typer.Option(min=0, help="Prompt and completion; 0: no limit.")
]
AllowUnknownFields = Annotated[
    bool,
    typer.Option(
        "--allow-unknown-fields",
        help="Pass over what adapter_config.json has that is not known, with a note.",
    ),
]
Pinned = Annotated[bool | None, typer.Option(help="Keep it in its slot.")]


@app.command("load")
@remote
def load(
    client: Client,
    source: Annotated[
        str,
        typer.Argument(
            help="Directory below one of the server's adapter roots, or URL below one of its adapter sources."
        ),
    ],
    name: Annotated[
        str, typer.Option("--name", help="Adapter id; default: the source's last part.")
    ] = "",
    canary: Annotated[
        float,
        typer.Option(
            min=0,
            help="Let the new version take this share of the id's requests, beside the current one.",
        ),
    ] = 0,
    weight: Weight = None,
    max_running: MaxRunning = None,
    max_waiting: MaxWaiting = None,
    tokens_per_minute: TokensPerMinute = None,
    pinned: Pinned = None,
    allow_unknown_fields: AllowUnknownFields = False,
    as_json: AsJson = False,
) -> None:
    """Load an adapter, or move its id to a new version."""
    policy = _given(
        weight=weight,
        max_running=max_running,
        max_waiting=max_waiting,
        tokens_per_minute=tokens_per_minute,
        pinned=pinned,
    )
    fields: dict[str, Any] = {"source" if "://" in source else "path": source, "adapter_id": name}
    if policy:
        fields["policy"] = policy
    fields |= {"canary_weight": canary, "allow_unknown_fields": allow_unknown_fields}
    _show([client.load_adapter(**fields)], as_json, notes=True)


@app.command("unload")
@remote
def unload(
    client: Client,
    name: Name,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for requests that use it.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Unload an adapter and free its memory."""
    _show([client.unload_adapter(name, wait_s=timeout)], as_json)


@app.command("rollback")
@remote
def rollback(
    client: Client,
    name: Name,
    version: Annotated[
        str, typer.Option(help="One of its older versions; default: the newest of them.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Serve an older version again."""
    _show([client.rollback_adapter(name, version)], as_json)


@app.command("canary", short_help="Change, promote or drop a canary.")
@remote
def canary(
    client: Client,
    name: Name,
    weight: Annotated[
        float,
        typer.Argument(
            min=0, max=1, help="Share of the requests; 0 drops the canary, 1 promotes it."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Change the share of requests that the canary takes, promote or drop it."""
    _show([client.set_canary(name, weight)], as_json)


@app.command("policy")
@remote
def policy(
    client: Client,
    name: Annotated[
        str, typer.Argument(help="Adapter id; '*' for all without a policy of their own.")
    ],
    weight: Weight = None,
    max_running: MaxRunning = None,
    max_waiting: MaxWaiting = None,
    tokens_per_minute: TokensPerMinute = None,
    pinned: Pinned = None,
    as_json: AsJson = False,
) -> None:
    """Set what an adapter's requests may take. Takes the place of the whole former policy."""
    given = _given(
        weight=weight,
        max_running=max_running,
        max_waiting=max_waiting,
        tokens_per_minute=tokens_per_minute,
        pinned=pinned,
    )
    if not given:
        fail("name what to set, such as --weight 1: it takes the place of the whole policy", 2)
    answer = client.set_policy(name, **given)
    _show([answer.adapter] if answer.HasField("adapter") else [], as_json)


@app.command("inspect", short_help="Check an adapter without a server.")
def inspect(
    path: Annotated[Path, typer.Argument(help="A PEFT adapter's directory on this machine.")],
    base: Annotated[
        Path | None, typer.Option(help="The base's directory: check targets and shapes too.")
    ] = None,
    allow_unknown_fields: AllowUnknownFields = False,
    as_json: AsJson = False,
) -> None:
    """Check an adapter without a server, and show what would be applied."""
    # Imported here: torch is loaded only where it is needed.
    from lora_runtime import inspect_adapter, report_to_json, report_to_text

    try:
        report = inspect_adapter(path, base, allow_unknown_fields=allow_unknown_fields)
    except (AdapterError, BaseModelError) as error:
        fail(str(error), 1)
    typer.echo(json.dumps(report_to_json(report)) if as_json else report_to_text(report))


@app.command("list")
@remote
def list_(client: Client, as_json: AsJson = False) -> None:
    """List the registered adapters."""
    _show(client.list_adapters(), as_json)


@app.command("status", short_help="Show the state of declared adapters.")
@remote
def status(client: Client, as_json: AsJson = False) -> None:
    """Show what has become of the adapters that the manifest and the watched directory declare."""
    declared = client.declared_adapters()
    if as_json:
        return print_json(declared)
    typer.echo(f"{'ADAPTER':24} {'STATE':12} {'VERSION':12} SOURCE")
    for a in declared:
        typer.echo(f"{a.name:24} {a.state:12} {a.version[:12]:12} {a.source}")
        if a.error:
            typer.echo(f"  {a.error}")


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _show(adapters: list[pb.Adapter], as_json: bool, notes: bool = False) -> None:
    if as_json:
        return print_json(adapters)
    typer.echo(
        f"{'ADAPTER':24} {'STATE':14} {'VERSION':12} {'CANARY':18} {'RANK':>4} {'MODULES':>7} {'BYTES':>12} "
        f"{'LEASES':>6}"
    )
    for a in adapters:
        state = pb.AdapterState.Name(a.state).removeprefix("ADAPTER_STATE_").lower()
        canary = f"{a.canary.version[:12]} {a.canary.weight:.0%}" if a.HasField("canary") else "-"
        typer.echo(
            f"{a.adapter_id:24} {state:14} {a.version[:12]:12} {canary:18} {a.max_rank:4} {len(a.modules):7} "
            f"{a.num_bytes:12} {a.leases:6}"
        )
        if a.error:
            typer.echo(f"  {a.error}")
        if a.canary.error:
            typer.echo(f"  canary out of service: {a.canary.error}")
        for note in a.notes if notes else ():
            typer.echo(f"  note: {note}")
