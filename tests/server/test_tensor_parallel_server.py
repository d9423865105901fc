"""`loramux serve --tensor-parallel 2`."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from loramux.v1 import inference_pb2, inference_pb2_grpc, server_pb2, server_pb2_grpc

from ..support.processes import descendants
from .test_process import Process

pytest.importorskip(
    "transformers.distributed.parallel_utils", reason="tensor parallel needs transformers 5.20"
)

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def start(tmp_path: Path, base: Path, adapters: dict[str, Path]) -> Process:
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
    )


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
        for status in health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=60
        ):
            if status.status == NOT_SERVING:
                break
    assert server.stop() == 0
    assert any("rank 1 of 2 has ended" in line["event"] for line in server.lines())
