"""A real Envoy, as the chart sets it up with placement, before stand-ins for servers."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import uvicorn
from loramux.v1 import inference_pb2, inference_pb2_grpc

from server.placement.app import PlacementApp
from server.placement.placer import Placer, Published
from server.placement.settings import Settings
from server.placement.targets import Address

from ..support.processes import wait_until
from .envoy import Routed, free_ports, post, routed

pytestmark = pytest.mark.slow


class _Server(uvicorn.Server):
    def install_signal_handlers(self) -> None: ...


@contextmanager
def placement(placer: Placer, port: int) -> Iterator[None]:
    """Serve what the placer has published."""
    app = PlacementApp(placer).routes
    server = _Server(uvicorn.Config(app, port=port, log_config=None, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


def asked(here: Routed, adapter: str, calls: int = 1) -> Counter[str]:
    """Servers that answer calls over gRPC and HTTP."""
    found: Counter[str] = Counter()
    with grpc.insecure_channel(f"127.0.0.1:{here.ports['grpc']}") as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        for _ in range(calls):
            request = inference_pb2.GenerateRequest(adapter_id=adapter)
            found[json.loads(stub.Generate(request, timeout=30).text)["server"]] += 1
            body = json.dumps({"model": adapter}).encode()
            found[post(here.ports["http"], body)["server"]] += 1
    return found


def test_calls_go_where_the_table_says(tmp_path: Path) -> None:
    placer, (port,) = Placer(Settings([])), free_ports(1)
    router = {"placement": {"enabled": True, "host": "127.0.0.1", "port": port}}
    with placement(placer, port), routed(tmp_path, router=router) as here:
        by_hash = asked(here, "new")
        servers = here.servers
        addresses = {s.name: Address("127.0.0.1", 1, s.grpc, s.http) for s in servers}
        table: dict[str, tuple[tuple[str, float], ...]] = dict.fromkeys("abc", (("s1", 1.0),))
        table["hot"] = (("s0", 0.5), ("s1", 0.25), ("s2", 0.25))
        placer.published = Published(table, addresses)
        wait_until(lambda: all(asked(here, name).keys() == {"s1"} for name in "abc"))
        assert asked(here, "new") == by_hash
        shares = asked(here, "hot", 300)
        assert shares.total() == 600
        assert 240 < shares["s0"] < 360  # 5 standard deviations
        assert 100 < shares["s2"] < 200

        servers[1].end(signal.SIGKILL)
        assert asked(here, "a", 20).keys() <= {"s0", "s2"}, "by the hash, and none failed"
        assert asked(here, "hot", 20).keys() == {"s0", "s2"}


def test_envoy_keeps_the_last_table(tmp_path: Path) -> None:
    placer, (port,) = Placer(Settings([])), free_ports(1)
    router = {"placement": {"enabled": True, "host": "127.0.0.1", "port": port}}
    with routed(tmp_path, router=router) as here:
        assert sum(asked(here, f"a{i}").total() for i in range(5)) == 10, "before there is one"
        addresses = {s.name: Address("127.0.0.1", 1, s.grpc, s.http) for s in here.servers}
        placer.published = Published({f"a{i}": (("s2", 1.0),) for i in range(5)}, addresses)
        with placement(placer, port):
            wait_until(lambda: all(asked(here, f"a{i}").keys() == {"s2"} for i in range(5)))
        time.sleep(2)  # Envoy has asked in vain
        assert all(asked(here, f"a{i}").keys() == {"s2"} for i in range(5))
