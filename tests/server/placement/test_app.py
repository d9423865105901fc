"""The port that Envoy asks."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from server.cli import app as command_line
from server.placement.app import DISCOVERY, PlacementApp
from server.placement.placer import Placer, Published
from server.placement.settings import Settings
from server.placement.targets import Address

from ...support.processes import wait_until
from ...support.servers import free_port
from .replicas import stand_ins

PLACEMENT = {"hot": (("r0", 0.75), ("r1", 0.25)), "cold": (("r1", 1.0),)}
ADDRESSES = {"r0": Address("10.0.0.1", 9464), "r1": Address("10.0.0.2", 9464, 1, 2)}
ASKED = {"resource_names": ["loramux.placement.grpc"], "node": {"id": "router"}}


@pytest.fixture
def placer() -> Placer:
    return Placer(Settings([]))


@pytest.fixture
def client(placer: Placer) -> Iterator[TestClient]:
    with TestClient(PlacementApp(placer).routes) as found:
        yield found


def test_nothing_is_placed_yet(client: TestClient) -> None:
    assert client.post(DISCOVERY, json=ASKED).status_code == 503
    assert client.get("/placement").json() == {"replicas": {}, "adapters": {}}


def test_a_table(client: TestClient, placer: Placer) -> None:
    placer.published = Published(PLACEMENT, ADDRESSES)
    answer = client.post(DISCOVERY, json=ASKED).json()
    (resource,) = answer["resources"]
    entries = resource["typed_config"]["xds_matcher"]["matcher_tree"]["exact_match_map"]["map"]
    assert hosts_of(entries["cold"]) == ["10.0.0.2:1"]
    both = entries["hot"]["matcher"]
    (first,) = both["matcher_list"]["matchers"]
    fraction = first["predicate"]["single_predicate"]["custom_match"]["typed_config"]
    assert fraction["runtime_fraction"]["default_value"]["numerator"] == 750_000
    assert hosts_of(first["on_match"]) == ["10.0.0.1:50051", "10.0.0.2:1"]
    assert hosts_of(both["on_no_match"]) == ["10.0.0.2:1", "10.0.0.1:50051"]
    again = client.post(DISCOVERY, json=ASKED | {"version_info": answer["version_info"]})
    assert again.status_code == 304
    http = client.post(DISCOVERY, json={"resource_names": ["loramux.placement.http"]}).text
    assert "10.0.0.2:2" in http
    placer.fleet.addresses = ADDRESSES
    shown = client.get("/placement").json()
    assert shown["adapters"]["hot"] == [["r0", 0.75], ["r1", 0.25]]
    assert shown["replicas"]["r1"] == {"grpc": "10.0.0.2:1", "http": "10.0.0.2:2"}
    placer.published = Published({}, ADDRESSES)
    assert client.post(DISCOVERY, json=ASKED).json()["version_info"] != answer["version_info"]


def hosts_of(entry: dict[str, Any]) -> list[str]:
    config = entry["action"]["typed_config"]["typed_config"]["typed_config"]
    (mutation,) = config["mutations"]["request_mutations"]
    assert mutation["append"]["header"]["key"] == "x-gateway-destination-endpoint"
    return str(mutation["append"]["header"]["value"]).split(",")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b"{}", 400),
        (b'{"resource_names": 5}', 400),
        (b'{"resource_names": [5]}', 404),
        (b'{"resource_names": ["other"]}', 404),
        (b" " * (1 << 21), 400),
        (b"[" * (1 << 19), 400),
    ],
)
def test_what_is_no_request(client: TestClient, placer: Placer, body: bytes, status: int) -> None:
    placer.published = Published(PLACEMENT, ADDRESSES)
    assert client.post(DISCOVERY, content=body).status_code == status


def test_health_and_metrics(client: TestClient, placer: Placer) -> None:
    wait_until(lambda: client.get("/healthz").status_code == 200)
    placer.published = Published(PLACEMENT, ADDRESSES)
    text = client.get("/metrics").text
    assert "loramux_placement_adapters 2.0\n" in text
    assert "loramux_placement_adapters_on_several 1.0\n" in text
    assert "loramux_placement_looks_total " in text


def test_a_target_that_is_none() -> None:
    result = CliRunner().invoke(command_line, ["placement", "--replica", "here"])
    assert result.exit_code == 2
    assert "--replica: 'here' is not HOST:METRICS" in result.output


def test_the_command() -> None:
    with stand_ins(2) as replicas:
        replicas[0].work, replicas[1].work = {"a": 10}, {"b": 10}
        port = free_port()
        command = [
            sys.executable,
            "-m",
            "server",
            "placement",
            f"--port={port}",
            "--interval-s=0.2",
        ]
        command += [f"--replica=127.0.0.1:{replica.port}" for replica in replicas]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            wait_until(lambda: page(port).keys() == {"a", "b"})
        finally:
            process.terminate()
            _, logged = process.communicate(timeout=30)
    assert process.returncode == 0
    events = [json.loads(line) for line in logged.splitlines()]
    shown = [f"127.0.0.1:{replica.port}=50051,8000" for replica in replicas]
    assert [event["replicas"] for event in events if event["event"] == "placing"] == [shown]
    (change,) = [event for event in events if event["event"] == "placement changed"]
    assert change["adapters"] == change["new"] == 2
    assert change["moves"] == 0


def page(port: int) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/placement", timeout=10) as answer:
            return dict(json.load(answer)["adapters"])
    except urllib.error.URLError:
        return {}
