"""An innocent caller: `python neighbour.py TARGET TOKEN [tokens]`, in a process of its own that no attacker slows.

It streams from the base and from an adapter again and again, compares every token and logprob with what it
got when it was alone, and asks for health every 100 ms. Lines on standard input ask it for reports.

With a third argument `tokens` it compares tokens alone: torch's kernels give a row other last bits beside
other rows.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from loramux.v1 import inference_pb2 as pb
from loramux.v1 import inference_pb2_grpc

TOKENS = 1000
"""Of one stream: some seconds, so that its gaps are mostly between tokens."""
ADAPTERS = ("", "good")
HEALTH_EVERY_S = 0.1
HEALTH_TIMEOUT_S = 5
SERVING = health_pb2.HealthCheckResponse.SERVING


class Stream:
    """One of the neighbour's streams, over and over."""

    def __init__(self, number: int, adapter_id: str, token: str, bits: bool) -> None:
        self._bits = bits
        self._metadata = (("authorization", f"Bearer {token}"),)
        self.name = adapter_id or "base"
        ids = [10 + (number * 370 + i * 7) % 1900 for i in range(40)]
        self._request = pb.GenerateRequest(
            token_ids=ids,
            adapter_id=adapter_id,
            max_new_tokens=TOKENS,
            ignore_eos=True,
            temperature=0.8 if bits else 0.0,
            seed=7,
            logprobs=2,
        )
        self.alone: list[Any] = []
        self.rounds = 0
        self.waits: list[tuple[float, float, bool]] = []
        """From, to, and whether for a first token; tokens of each."""
        self.waiting: tuple[float, bool] | None = None
        self.wrong: list[tuple[float, str]] = []
        self.errors: list[tuple[float, str]] = []

    async def run(self, target: str) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(target, options) as channel:
            stub = inference_pb2_grpc.InferenceStub(channel)
            while True:
                try:
                    await self._round(stub)
                except grpc.aio.AioRpcError as error:
                    self.waiting = None
                    text = f"{self.name}: {error.code().name} {error.details()}"
                    self.errors.append((time.monotonic(), text[:200]))
                    await asyncio.sleep(0.1)

    async def _round(self, stub: Any) -> None:
        got: list[Any] = []
        last, first = time.monotonic(), True
        self.waiting = (last, first)
        call = stub.GenerateStream(self._request, timeout=120, metadata=self._metadata)
        async for event in call:
            now = time.monotonic()
            self.waits.append((last, now, first))
            last, first = now, False
            self.waiting = (last, first)
            new = self._compared(event)
            if self.rounds and new != self.alone[len(got) : len(got) + len(new)]:
                self.wrong.append((now, f"{self.name}: token {len(got)} differs"))
                call.cancel()
                break
            got += new
        self.waiting = None
        self.alone = self.alone or got
        self.rounds += 1

    def _compared(self, event: pb.GenerateStreamResponse) -> list[Any]:
        if not self._bits:
            return list(event.token_ids)
        return [
            (p.token_id, p.logprob, *((t.token_id, t.logprob) for t in p.top))
            for p in event.logprobs
        ]

    def waits_since(self, since: float) -> list[tuple[float, float, bool]]:
        """Those that ended since then, and the one that goes on."""
        self.waits = [wait for wait in self.waits if wait[1] >= since]
        if self.waiting:
            return [*self.waits, (self.waiting[0], time.monotonic(), self.waiting[1])]
        return self.waits


class HealthChecks:
    """Asks whether the server is live, and ready."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float, str]] = []

    async def run(self, target: str) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(target, options) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while True:
                for service in ("live", ""):
                    await self._ask(stub, service)
                await asyncio.sleep(HEALTH_EVERY_S)

    async def _ask(self, stub: Any, service: str) -> None:
        began, name, answer = time.monotonic(), service or "ready", ""
        try:
            request = health_pb2.HealthCheckRequest(service=service)
            status = (await stub.Check(request, timeout=HEALTH_TIMEOUT_S)).status
            if status != SERVING:
                answer = f"{name}: {health_pb2.HealthCheckResponse.ServingStatus.Name(status)}"
        except grpc.aio.AioRpcError as error:
            answer = f"{name}: {error.code().name}"
        self.seen.append((began, time.monotonic(), answer))

    def since(self, since: float) -> list[tuple[float, float, str]]:
        self.seen = [one for one in self.seen if one[1] >= since]
        return self.seen


def report_of(streams: list[Stream], health: HealthChecks, since: float) -> dict[str, Any]:
    """The fields of a Report."""
    waits = [wait for stream in streams for wait in stream.waits_since(since)]
    checks = health.since(since)

    def longest(first: bool) -> float:
        return max((ended - begun for begun, ended, f in waits if f is first), default=0.0)

    return {
        "gap_s": longest(False),
        "first_token_s": longest(True),
        "tokens": len(waits),
        "wrong": [text for stream in streams for at, text in stream.wrong if at >= since],
        "errors": [text for stream in streams for at, text in stream.errors if at >= since],
        "health_s": max((ended - begun for begun, ended, _ in checks), default=0.0),
        "unhealthy": sorted({answer for _, _, answer in checks if answer}),
    }


async def main(target: str, token: str, compared: str = "bits") -> None:
    bits = compared == "bits"
    streams = [Stream(i, adapter_id, token, bits) for i, adapter_id in enumerate(ADAPTERS)]
    health = HealthChecks()
    loop = asyncio.get_running_loop()
    running = [loop.create_task(stream.run(target)) for stream in streams]
    running.append(loop.create_task(health.run(target)))
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        question = json.loads(line)
        if question == "rounds":
            answer: Any = min(stream.rounds for stream in streams)
        else:
            answer = report_of(streams, health, question)
        print(json.dumps(answer), flush=True)
    for task in running:
        task.cancel()


if __name__ == "__main__":
    gc.disable()  # its own pauses are no gaps of the server
    asyncio.run(main(*sys.argv[1:]))
