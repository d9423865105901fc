"""Command `loramux bench`."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from loramux_client import Client
from rich.console import Console

from ..bench.call import OK, Ask, BenchError, Driver
from ..bench.draws.arrivals import Arrivals
from ..bench.draws.popularity import Popularity
from . import bench_options as read
from .common import AsJson, fail, remote

if TYPE_CHECKING:
    from ..bench.session import Measured

_LOAD, _ADAPTERS, _PROMPTS = "Load", "Adapters", "What calls ask"
_WAY, _OUTPUT = "Way to the server", "Output"


@remote
def bench(
    client: Client,
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency",
            "-c",
            min=1,
            help="Callers, each with one call at a time: a closed loop; default 8. With --rate: most"
            " calls under way at once; default any number.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Calls a second that are sent when they are due, whatever has become of those"
            " before: an open loop.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    arrivals: Annotated[
        Arrivals | None,
        typer.Option(help="When calls are due; default poisson.", rich_help_panel=_LOAD),
    ] = None,
    cv: Annotated[
        float | None,
        typer.Option(
            help="Coefficient of variation of the gaps of gamma: over 1 they come in bursts;"
            " default 4.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    calls: Annotated[
        int | None,
        typer.Option(
            "--calls",
            "-n",
            min=1,
            help="Calls in all; default 200 where there is no --duration-s.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    duration_s: Annotated[
        float | None,
        typer.Option(
            help="Seconds after which no call is sent; those under way are waited for.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    warmup: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Calls before, not counted; default as many as callers, 8 with --rate.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    timeout_s: Annotated[
        float, typer.Option(max=86400, help="Deadline of each call.", rich_help_panel=_LOAD)
    ] = 120.0,
    seed: Annotated[
        int, typer.Option(help="Of arrivals and of adapters.", rich_help_panel=_LOAD)
    ] = 0,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter",
            "-a",
            help="Adapter id, repeatable; empty for the base. None: the base alone.",
            rich_help_panel=_ADAPTERS,
        ),
    ] = None,
    all_adapters: Annotated[
        bool,
        typer.Option(
            "--all-adapters", help="Every adapter of the server.", rich_help_panel=_ADAPTERS
        ),
    ] = False,
    popularity: Annotated[
        Popularity | None,
        typer.Option(
            help="How adapters are drawn; default uniform. Of zipf the first is named most.",
            rich_help_panel=_ADAPTERS,
        ),
    ] = None,
    zipf_exponent: Annotated[
        float | None, typer.Option(help="Default 1.", rich_help_panel=_ADAPTERS)
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="File with lines of ID WEIGHT, base for the base: the adapters, and how often each"
            " is named.",
            rich_help_panel=_ADAPTERS,
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help=f"Default: {read.PROMPT}", rich_help_panel=_PROMPTS)
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="File with a prompt a line, taken in turn; of a .jsonl file objects with prompt or"
            " messages.",
            rich_help_panel=_PROMPTS,
        ),
    ] = None,
    chat: Annotated[
        bool,
        typer.Option(
            "--chat", help="Send prompts as a user's chat message.", rich_help_panel=_PROMPTS
        ),
    ] = False,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, max=2**32 - 1, rich_help_panel=_PROMPTS)
    ] = 32,
    ignore_eos: Annotated[
        bool,
        typer.Option(
            "--ignore-eos", help="All answers have --max-new-tokens.", rich_help_panel=_PROMPTS
        ),
    ] = False,
    stream: Annotated[bool, typer.Option("--stream/--unary", rich_help_panel=_PROMPTS)] = True,
    prefix_cache: Annotated[
        bool,
        typer.Option(
            help="Let the server find prompts again that it has had; or give each call a"
            " cache_salt of its own.",
            rich_help_panel=_PROMPTS,
        ),
    ] = True,
    http: Annotated[
        str | None,
        typer.Option(
            help="URL such as http://127.0.0.1:8000 of an OpenAI API, instead of gRPC at --target.",
            rich_help_panel=_WAY,
        ),
    ] = None,
    retry: Annotated[
        bool,
        typer.Option(
            "--retry",
            help="Let gRPC make refused calls anew, as the client package does.",
            rich_help_panel=_WAY,
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="File for the report, JSON.", rich_help_panel=_OUTPUT)
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="File for a picture, .png or .svg; needs matplotlib.", rich_help_panel=_OUTPUT
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send a load to a running server, and report times and tokens by adapter and in all.

    Exit code 0: every call was answered; 3: some failed; 1: none was answered.
    """
    options = dict(locals())
    from ..bench.session import measure  # numpy takes a while
    from ..bench.tables import show

    load = read.load_of(concurrency, rate, arrivals, cv, calls, duration_s)
    warm = read.warmup_of(load) if warmup is None else warmup
    asked = read.prompts_of(prompt, prompts, chat)
    named = [] if all_adapters else adapter
    mix = read.mix_of(named, popularity, zipf_exponent, weights, asked)
    read.positive("--timeout-s", timeout_s)
    ask = Ask(max_new_tokens, ignore_eos, stream, timeout_s, not prefix_cache)
    if all_adapters and adapter:
        raise typer.BadParameter("--adapter or --all-adapters, not both")
    picture = read.plot_of(plot)
    file = None if out is None else read.writable("--out", out)
    driver = read.driver_of(client, ask, http, retry)

    async def measured() -> Measured:
        async with driver:
            await driver.connect()
            whom = replace(mix, names=await _all(driver)) if all_adapters else mix
            return await measure(load, whom, driver, warm, seed, Console(stderr=True))

    try:
        found = asyncio.run(measured())
    except BenchError as error:
        fail(str(error), 1)
    report = {"target": http or client.target, "options": _told(options), **found.report}
    if as_json:
        typer.echo(json.dumps(report))
    else:
        show(report, Console())
    try:
        if file is not None:
            file.write_text(json.dumps(report, indent=1) + "\n")
        if picture is not None:
            _draw(found, report, load.rate is not None, picture)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", 2)
    raise typer.Exit(_exit_code(found))


async def _all(driver: Driver) -> list[str]:
    if names := await driver.adapters():
        return names
    raise BenchError("the server has no adapter")


def _told(options: dict[str, Any]) -> dict[str, Any]:
    """Give the options that a report has: what is given, but for where it goes."""
    left_out = {"client", "out", "plot", "as_json"}
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in options.items()
        if value is not None and name not in left_out
    }


def _draw(found: Measured, report: dict[str, Any], open_loop: bool, target: Path) -> None:
    from ..bench.plot import draw  # matplotlib takes a second

    total = report["total"]
    title = (
        f"{report['target']}, {report['began']}: {total['calls']} calls, {total['ok']} answered,"
        f" {total['calls_per_s']:.1f} calls/s, {total['tokens_per_s']:.0f} tokens/s"
    )
    draw(found.recorder, title, open_loop, target)


def _exit_code(found: Measured) -> int:
    if found.cancelled:
        return 130
    if not found.recorder.statuses[OK]:
        return 1
    return 3 if found.recorder.failed else 0
