"""What the options of `loramux bench` say together."""

from __future__ import annotations

import ssl
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import typer
from loramux_client import AsyncClient, Client

from ..bench.call import Ask, Driver
from ..bench.draws.arrivals import Arrivals
from ..bench.draws.mix import Mix
from ..bench.draws.popularity import Popularity, read_weights
from ..bench.draws.prompts import Prompt, read_prompts
from ..bench.load import Load
from ..tls import is_loopback

PROMPT = "Tell me about dogs."
_CALLS, _CONCURRENCY, _GAMMA_CV = 200, 8, 4.0
_LEAST_CV, _MOST_CV = 0.001, 1000.0
"""Gaps that are all the same, and bursts that are over before the next one: beyond them gamma's
shape is no number any more."""


def load_of(
    concurrency: int | None,
    rate: float | None,
    arrivals: Arrivals | None,
    cv: float | None,
    calls: int | None,
    duration_s: float | None,
) -> Load:
    for name, value in (("--rate", rate), ("--cv", cv), ("--duration-s", duration_s)):
        positive(name, value)
    if calls is None and duration_s is None:
        calls = _CALLS
    if rate is None:
        if arrivals is not None:
            raise typer.BadParameter("--arrivals are an open loop's: give --rate")
        if cv is not None:
            raise typer.BadParameter("--cv is an open loop's: give --rate and --arrivals gamma")
        return Load(calls, duration_s, concurrency or _CONCURRENCY)
    if cv is not None and arrivals is not Arrivals.GAMMA:
        raise typer.BadParameter("--cv needs --arrivals gamma")
    if cv is not None and not _LEAST_CV <= cv <= _MOST_CV:
        raise typer.BadParameter(f"--cv must be from {_LEAST_CV:g} to {_MOST_CV:g}")
    kind = arrivals or Arrivals.POISSON
    return Load(calls, duration_s, concurrency, rate, kind, cv or _GAMMA_CV)


def warmup_of(load: Load) -> int:
    """Give as many calls as open the connections of the load's callers."""
    return _CONCURRENCY if load.rate is not None else load.concurrency or 1


def positive(option: str, value: float | None) -> None:
    if value is not None and not (isfinite(value) and value > 0):
        raise typer.BadParameter(f"{option} must be more than 0")


def mix_of(
    names: list[str] | None,
    popularity: Popularity | None,
    zipf_exponent: float | None,
    weights: Path | None,
    prompts: list[Prompt],
) -> Mix:
    """Make the mix; `names` are None where no adapter is named, empty where the server names them."""
    positive("--zipf-exponent", zipf_exponent)
    "".join(names or ()).encode()
    if zipf_exponent is not None and popularity is not Popularity.ZIPF:
        raise typer.BadParameter("--zipf-exponent needs --popularity zipf")
    if weights is None:
        kind = popularity or Popularity.UNIFORM
        return Mix(names or [""], prompts, kind, zipf_exponent or 1.0)
    if names is not None or popularity is not None:
        raise typer.BadParameter(
            "--weights says which adapters, and how often: without --adapter, --all-adapters and"
            " --popularity"
        )
    found = _read("--weights", weights, read_weights)
    return Mix(list(found), prompts, weights=list(found.values()))


def prompts_of(text: str | None, file: Path | None, chat: bool) -> list[Prompt]:
    if text is not None and file is not None:
        raise typer.BadParameter("--prompt or --prompts, not both")
    found = [Prompt(PROMPT if text is None else text)]
    found[0].text.encode()  # UnicodeEncodeError for what no call could send
    if file is not None:
        found = _read("--prompts", file, read_prompts)
    return [one.as_chat() for one in found] if chat else found


def _read(option: str, file: Path, reader: Any) -> Any:
    try:
        return reader(file)
    except OSError as error:
        raise typer.BadParameter(f"{option} {file}: {error.strerror}") from error
    except ValueError as error:
        raise typer.BadParameter(f"{option} {file}: {error}") from error


def driver_of(client: Client, ask: Ask, http: str | None, retry: bool) -> Driver:
    """Make the way to the server that `client` names, or to that at the URL `http`."""
    if http is None:
        from ..bench.grpc_driver import GrpcDriver

        return GrpcDriver(_async_client(client, retry), ask)
    if retry:
        raise typer.BadParameter("--retry is gRPC's: not with --http")
    installed("aiohttp", "--http")
    from ..bench.http_driver import HttpDriver

    return HttpDriver(http.rstrip("/").removesuffix("/v1"), ask, client.token, _tls(client, http))


def _async_client(client: Client, retry: bool) -> AsyncClient:
    reach: dict[str, Any] = {"tls": client.tls, "ca": client.ca, "cert": client.cert}
    return AsyncClient(client.target, key=client.key, token=client.token, retry=retry, **reach)


def _tls(client: Client, url: str) -> ssl.SSLContext | None:
    """Make the context of https://; None where there is no TLS."""
    try:
        scheme, place = urlsplit(url).scheme, urlsplit(url).hostname
    except ValueError:
        scheme, place = "", None
    if scheme not in ("http", "https") or not place:
        raise typer.BadParameter("--http must be a URL, http:// or https://")
    if "@" in url:  # the report has the URL
        raise typer.BadParameter("--http has no user in it: give a token by --token-file")
    if scheme == "http":
        if client.is_secure:
            raise typer.BadParameter("--tls, --ca, --cert are for an https:// URL")
        if client.token and not is_loopback(place):
            typer.echo("warning: the token goes to the server without TLS", err=True)
        return None
    try:
        context = ssl.create_default_context(cafile=client.ca)
        if client.cert is not None:
            context.load_cert_chain(client.cert, client.key)
    except OSError as error:
        raise typer.BadParameter(f"--ca, --cert, --key: {error.strerror or error}") from error
    return context


def plot_of(file: Path | None) -> Path | None:
    """Check that a picture can be drawn, before anything is measured."""
    if file is None:
        return None
    if file.suffix not in (".png", ".svg", ".pdf"):
        raise typer.BadParameter("--plot is a .png, .svg or .pdf file")
    installed("matplotlib", "--plot")
    return writable("--plot", file)


def writable(option: str, file: Path) -> Path:
    if not file.parent.is_dir():
        raise typer.BadParameter(f"{option} {file}: there is no folder {file.parent}")
    return file


def installed(module: str, option: str) -> None:
    if find_spec(module) is None:
        raise typer.BadParameter(f"{option} needs {module}: pip install 'loramux[bench]'")
