"""`loramux health`: asks a running server how it is, for probes that run a command.

Kubernetes starts such a command every few seconds: it imports gRPC and nothing else that is large.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc

_CHECK = "/grpc.health.v1.Health/Check"
# HealthCheckRequest and HealthCheckResponse in bytes: their own modules take as long as all else.
_READY, _LIVE, _SERVING = b"", b"\x0a\x04live", b"\x08\x01"


class ProbeError(Exception):
    """Reason that a server's health is not known."""


def main(arguments: Sequence[str]) -> int:
    """Print in a line how the server is; 0 if it is ready (or live), 1 if not, 2 for bad options."""
    options = _parser().parse_args(arguments)
    asked = "live" if options.live else "ready"
    try:
        serves = _ask(options)
    except ProbeError as error:
        print(f"not {asked}: {error}", file=sys.stderr)
        return 1
    if not serves:
        print(f"not {asked}: {options.target} says NOT_SERVING", file=sys.stderr)
        return 1
    print(asked)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "loramux health",
        description="Ask a running server whether it is ready: exit status 0 if it is, 1 if not. For probes that run "
        "a command. It needs no token.",
        allow_abbrev=False,
    )
    variables = os.environ.get
    own_port = variables("LORAMUX_HEALTH_PORT") or variables("LORAMUX_PORT") or "50051"
    parser.add_argument(
        "--target",
        type=_target,
        default=variables("LORAMUX_TARGET") or f"127.0.0.1:{own_port}",
        metavar="HOST:PORT",
        help="gRPC's port or the health port (%(default)s; LORAMUX_TARGET, else the server's own LORAMUX_HEALTH_PORT "
        "or LORAMUX_PORT)",
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="whether it is live: it may still load its base, or drain",
    )
    parser.add_argument(
        "--timeout-s", type=_seconds, default=3.0, metavar="SECONDS", help="%(default)s"
    )
    _add_tls(parser)
    return parser


def _add_tls(parser: argparse.ArgumentParser) -> None:
    tls = parser.add_argument_group("TLS, where the port has it (the health port has none)")
    is_on = os.environ.get("LORAMUX_TLS", "").lower() not in ("", "0", "false", "no", "off")
    tls.add_argument(
        "--tls", action="store_true", default=is_on, help="with the system's authorities"
    )
    for name, what in (
        ("ca", "PEM file of the server's authority; turns TLS on"),
        ("cert", "PEM file of the client's certificate"),
        ("key", "PEM file of its private key"),
    ):
        value = os.environ.get(f"LORAMUX_{name.upper()}")
        default = Path(value) if value else None
        tls.add_argument(f"--{name}", type=Path, default=default, metavar="FILE", help=what)
    tls.add_argument("--server-name", default="", help="name in its certificate, if not HOST")


def _target(text: str) -> str:
    port = text.rpartition(":")[2]
    if port.isdigit() and not 0 < int(port) < 65536:  # gRPC would take it modulo 65536
        raise argparse.ArgumentTypeError(f"{port} is no port")
    return text


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"a number of seconds above 0, not {text!r}")
    return value


def _ask(options: argparse.Namespace) -> bool:
    """The server's answer. Raises ProbeError."""
    with _channel(options) as channel:
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_CHECK)
        try:
            answer = check(_LIVE if options.live else _READY, timeout=options.timeout_s)
        except grpc.RpcError as error:
            raise ProbeError(f"{options.target} {_reason(error, options.timeout_s)}") from None
    return answer == _SERVING


def _channel(options: argparse.Namespace) -> grpc.Channel:
    settings: list[tuple[str, str | int]] = [("grpc.enable_http_proxy", 0)]  # it is in this pod
    if options.server_name:
        settings.append(("grpc.ssl_target_name_override", options.server_name))
    if bool(options.key) != bool(options.cert):
        raise ProbeError("--key and --cert go together")
    files = (options.ca, options.key, options.cert)
    if not (options.tls or any(files)):
        return grpc.insecure_channel(options.target, settings)
    credentials = grpc.ssl_channel_credentials(*map(_content, files))
    return grpc.secure_channel(options.target, credentials, settings)


def _content(file: Path | None) -> bytes | None:
    try:
        return file.read_bytes() if file else None
    except OSError as error:
        raise ProbeError(f"{file}: {error.strerror}") from None


def _reason(error: grpc.RpcError, timeout_s: float) -> str:
    code = error.code()
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"does not answer in {timeout_s:g} s"
    if code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED):
        return "is no server of loramux"
    return f"cannot be asked: {code.name}, {error.details()}"
