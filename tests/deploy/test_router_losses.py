"""A real Envoy before stand-ins that are killed and stopped while many call: what fails."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from loramux.v1 import inference_pb2, inference_pb2_grpc

from .envoy import Routed, post, routed

pytestmark = pytest.mark.slow
CALLERS = 12
TOKENS = 4


class Callers:
    """Threads that call without a pause, over gRPC and HTTP in turn, until they are told to end."""

    def __init__(self, here: Routed, streams: bool = False) -> None:
        self._here, self._streams = here, streams
        self._ended = threading.Event()
        self.ends: Counter[str] = Counter()
        self._lock = threading.Lock()

    def during(self, what: Callable[[], None]) -> Counter[str]:
        """Call while `what` is done, and say how calls ended: a stream that had begun is told apart."""
        with ThreadPoolExecutor(CALLERS) as pool:
            running = [pool.submit(self._call, number) for number in range(CALLERS)]
            try:
                time.sleep(1)
                what()
                time.sleep(1)
            finally:
                self._ended.set()
            for one in running:
                one.result()
        return self.ends

    def _call(self, number: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"127.0.0.1:{self._here.ports['grpc']}", options) as channel:
            stub = inference_pb2_grpc.InferenceStub(channel)
            call = 0
            while not self._ended.is_set():
                call += 1
                name = f"a{(call * 7 + number) % 24}"
                end = self._stream(stub, name) if self._streams else self._unary(stub, name, call)
                with self._lock:
                    self.ends[end] += 1

    def _unary(self, stub: inference_pb2_grpc.InferenceStub, name: str, call: int) -> str:
        try:
            if call % 2:
                request = inference_pb2.GenerateRequest(adapter_id=name, max_new_tokens=TOKENS)
                stub.Generate(request, timeout=30)
            else:
                post(self._here.ports["http"], json.dumps({"model": name}).encode())
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
        except OSError as error:
            return repr(error)
        return "OK"

    def _stream(self, stub: inference_pb2_grpc.InferenceStub, name: str) -> str:
        begun = False
        try:
            request = inference_pb2.GenerateRequest(adapter_id=name, max_new_tokens=TOKENS)
            for _ in stub.GenerateStream(request, timeout=30):
                begun = True
        except grpc.RpcError as error:
            return "begun" if begun else f"{error.code().name}: {error.details()}"
        return "OK"


def test_a_server_that_is_killed_fails_no_call(tmp_path: Path) -> None:
    with routed(tmp_path) as here:

        def kill() -> None:
            for server in here.servers:
                server.end(signal.SIGKILL)
                time.sleep(1)
                server.start()
                wait_for_all(here)

        ends = Callers(here).during(kill)
    assert set(ends) == {"OK"}, ends
    assert ends["OK"] > 100


def test_begun_streams_alone_fail_with_their_server(tmp_path: Path) -> None:
    with routed(tmp_path) as here:
        ends = Callers(here, streams=True).during(lambda: here.servers[0].end(signal.SIGKILL))
    assert ends.keys() <= {"OK", "begun"}, ends
    assert ends["begun"] <= CALLERS
    assert ends["OK"] > 100


@pytest.mark.parametrize("streams", [False, True], ids=["calls", "streams"])
def test_servers_that_stop_one_after_the_other_fail_no_call(tmp_path: Path, streams: bool) -> None:
    with routed(tmp_path) as here:

        def roll() -> None:
            for server in here.servers:
                server.end(signal.SIGTERM)
                server.start()
                wait_for_all(here)

        ends = Callers(here, streams).during(roll)
    assert set(ends) == {"OK"}, ends
    assert ends["OK"] > 100


def wait_for_all(here: Routed) -> None:
    while here.healthy() != [len(here.servers)] * 4:
        time.sleep(0.1)
