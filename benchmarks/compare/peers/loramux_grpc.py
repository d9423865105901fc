"""loramux's server as a process of its own, with one GenerateStream call per request, all at once.

`options` are flags of `loramux serve`, without the dashes.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from typing import Any

import grpc
from loramux.v1 import inference_pb2, inference_pb2_grpc, server_pb2, server_pb2_grpc

from .protocol import Job, Peer, Run, main

_START_TIMEOUT_S = 120


class LoramuxGrpc(Peer):
    def __init__(self, job: Job) -> None:
        super().__init__(job)
        port = free_port()
        self._target = f"127.0.0.1:{port}"
        flags: dict[str, Any] = {
            "base": job.model,
            "port": port,
            "http-port": 0,
            "metrics-port": 0,
            "dtype": "bfloat16",
            "log-level": "error",
            "max-adapters": max(1, len(job.adapters)),
            "max-running": max(64, len(job.prompts)),
        }
        command = [sys.executable, "-m", "server", "serve", "--no-prefix-caching"]
        command += [f"--{name}={value}" for name, value in (flags | job.options).items()]
        command += [f"--adapter={name}={path}" for name, path in job.adapters.items()]
        self._server = subprocess.Popen(command)
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        with grpc.insecure_channel(self._target) as channel:
            stub = server_pb2_grpc.ServerStub(channel)
            while time.monotonic() < deadline and self._server.poll() is None:
                try:
                    stub.GetServerInfo(server_pb2.GetServerInfoRequest(), timeout=5)
                    return
                except grpc.RpcError:  # UNAVAILABLE until the base and the adapters are loaded
                    time.sleep(0.2)
        raise SystemExit("the server did not start")

    def generate(self, output_len: int) -> Run:
        return asyncio.run(self._generate(output_len))

    async def _generate(self, output_len: int) -> Run:
        requests = [
            inference_pb2.GenerateRequest(
                token_ids=prompt, adapter_id=name, max_new_tokens=output_len, ignore_eos=True
            )
            for prompt, name in zip(self.job.prompts, self.job.assigned, strict=True)
        ]
        async with grpc.aio.insecure_channel(self._target) as channel:
            await channel.channel_ready()
            stub = inference_pb2_grpc.InferenceStub(channel)
            started = time.perf_counter()
            answers = await asyncio.gather(*(self._read(stub, r) for r in requests))
            wall_s = time.perf_counter() - started
        ttft = [times[0] - started for _, times in answers]
        return Run(
            wall_s,
            [ids for ids, _ in answers],
            ttft,
            [times[-1] - times[0] for _, times in answers],
        )

    @staticmethod
    async def _read(
        stub: inference_pb2_grpc.InferenceStub, request: inference_pb2.GenerateRequest
    ) -> tuple[list[int], list[float]]:
        """One stream's tokens, and when each message came."""
        ids: list[int] = []
        times: list[float] = []
        async for message in stub.GenerateStream(request):
            times.append(time.perf_counter())
            ids += message.token_ids
        return ids, times

    def close(self) -> None:
        self._server.terminate()
        self._server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main(LoramuxGrpc)
