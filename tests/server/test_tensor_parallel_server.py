"""`loramux serve --tensor-parallel 2`."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from loramux.v1 import inference_pb2, inference_pb2_grpc, server_pb2, server_pb2_grpc

from ..support.processes import descendants, is_alive
from .test_process import SERVING, Process, long_stream

pytest.importorskip(
    "transformers.distributed.parallel_utils", reason="tensor parallel needs transformers 5.20"
)

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def start(tmp_path: Path, base: Path, adapters: dict[str, Path], *args: str) -> Process:
    return Process(
        tmp_path,
        "--base",
        str(base),
        "--adapter",
        f"a1={adapters['a1']}",
        "--device",
        "cpu",
        "--tensor-parallel",
        "2",
        *args,
    )


def wait_for(channel: grpc.Channel, service: str, wanted: int) -> None:
    for answer in health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(service=service), timeout=60
    ):
        if answer.status == wanted:
            return


@pytest.mark.slow
def test_a_follower_that_dies_while_idle(
    tmp_path: Path, tiny_base: Path, tiny_adapters: dict[str, Path]
) -> None:
    server = start(tmp_path, tiny_base, tiny_adapters)
    with server.channel() as channel:
        server.wait_until_serving(channel)
        info = server_pb2_grpc.ServerStub(channel).GetServerInfo(server_pb2.GetServerInfoRequest())
        assert info.kernels["step"] == "torch/tensor-parallel/2"
        (follower,) = descendants(server.process.pid)
        for signal_to_all in (
            signal.SIGINT,
            signal.SIGTERM,
        ):  # a terminal's, a supervisor's: rank 0 decides
            os.kill(follower, signal_to_all)
        answer = inference_pb2_grpc.InferenceStub(channel).Generate(
            inference_pb2.GenerateRequest(
                prompt="x", max_new_tokens=3, ignore_eos=True, adapter_id="a1"
            )
        )
        assert len(answer.choices[0].token_ids) == 3
        os.kill(follower, signal.SIGKILL)
        for service in ("", "live"):
            wait_for(channel, service, NOT_SERVING)
    assert server.stop() == 0
    assert any("rank 1 of 2 has ended" in line["event"] for line in server.lines())


@pytest.mark.slow
def test_a_follower_that_is_stopped(
    tmp_path: Path, tiny_base: Path, tiny_adapters: dict[str, Path]
) -> None:
    """The server is not live until it goes on; and a stop does not wait for it."""
    server = start(tmp_path, tiny_base, tiny_adapters, "--step-timeout-s", "1", "--drain-s", "1")
    with server.channel() as channel:
        server.wait_until_serving(channel)
        (follower,) = descendants(server.process.pid)
        os.kill(follower, signal.SIGSTOP)
        stream = long_stream(channel)
        for service in ("live", ""):
            wait_for(channel, service, NOT_SERVING)
        os.kill(follower, signal.SIGCONT)
        assert sum(len(event.token_ids) for event in stream) == 400
        for service in ("live", ""):
            wait_for(channel, service, SERVING)
        os.kill(follower, signal.SIGSTOP)
        stream = long_stream(channel)
        wait_for(channel, "live", NOT_SERVING)
        assert server.stop() == 0
        with pytest.raises(grpc.RpcError):
            list(stream)
        assert stream.code() is grpc.StatusCode.UNAVAILABLE
    assert not is_alive(follower)
    events = [line["event"] for line in server.lines()]
    assert events.count("a step hangs: not live") == 2
    assert "rank 1 does not end: killed" in events
    assert events[-1] == "stopped"
