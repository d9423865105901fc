"""An innocent caller: `python -m tests.attacks.clients.neighbour TARGET HTTP_TARGET TOKEN [tokens]`, in a process of
its own that no attacker slows.

It streams from the base over gRPC and from an adapter over HTTP again and again, compares every token and logprob with
what it got when it was alone, and asks for health every 100 ms. Lines on standard input ask it for reports.

With `tokens` it compares tokens alone: torch's kernels give a row other last bits beside other rows.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import aiohttp
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from loramux.v1 import inference_pb2 as pb
from loramux.v1 import inference_pb2_grpc

TOKENS = 1000
"""Of one stream: some seconds, so that its gaps are mostly between tokens."""
TIMEOUT_S = 120
HEALTH_EVERY_S = 0.1
HEALTH_TIMEOUT_S = 5
SERVING = health_pb2.HealthCheckResponse.SERVING


class Stream:
    """One of the neighbour's streams, over and over."""

    name: str

    def __init__(self, target: str, number: int, token: str, bits: bool) -> None:
        self._target, self._bits, self._token = target, bits, f"Bearer {token}"
        self.ids = [10 + (number * 370 + i * 7) % 1900 for i in range(40)]
        self.sampling: dict[str, Any] = {
            "ignore_eos": True,
            "temperature": 0.8 if bits else 0.0,
            "seed": 7,
        }
        self.alone: list[Any] = []
        self.rounds = 0
        self.waits: list[tuple[float, float, bool]] = []
        """From, to, and whether for a first token; tokens of each."""
        self.waiting: tuple[float, bool] | None = None
        self.wrong: list[tuple[float, str]] = []
        self.errors: list[tuple[float, str]] = []

    def events(self) -> AsyncIterator[list[Any]]:
        """Connect once and give the tokens of each event, over and over; [] at each end."""
        raise NotImplementedError

    async def run(self) -> None:
        while True:
            try:
                async with aclosing(self.events()) as events:  # type: ignore[type-var]
                    await self._follow(events)
            except grpc.aio.AioRpcError as error:
                self._failed(f"{error.code().name} {error.details()}")
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self._failed(repr(error))
            await asyncio.sleep(0.1)

    def _failed(self, text: str) -> None:
        self.waiting = None
        self.errors.append((time.monotonic(), f"{self.name}: {text}"[:200]))

    async def _follow(self, events: AsyncIterator[list[Any]]) -> None:
        got: list[Any] = []
        self.waiting = (time.monotonic(), True)
        async for new in events:
            now = time.monotonic()
            if not new:
                self.alone, got = self.alone or got, []
                self.rounds += 1
                self.waiting = (now, True)
                continue
            begun, first = self.waiting
            self.waits.append((begun, now, first))
            self.waiting = (now, False)
            if self.rounds and new != self.alone[len(got) : len(got) + len(new)]:
                self.wrong.append((now, f"{self.name}: token {len(got)} differs"))
                return
            got += new

    def waits_since(self, since: float) -> list[tuple[float, float, bool]]:
        """Those that ended since then, and the one that goes on."""
        self.waits = [wait for wait in self.waits if wait[1] >= since]
        if self.waiting:
            return [*self.waits, (self.waiting[0], time.monotonic(), self.waiting[1])]
        return self.waits


class GrpcStream(Stream):
    """Stream of the base."""

    name = "gRPC, base"

    async def events(self) -> AsyncIterator[list[Any]]:
        request = pb.GenerateRequest(
            token_ids=self.ids, max_new_tokens=TOKENS, logprobs=2, **self.sampling
        )
        metadata = (("authorization", self._token),)
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self._target, options) as channel:
            stub = inference_pb2_grpc.InferenceStub(channel)
            while True:
                async for event in stub.GenerateStream(
                    request, timeout=TIMEOUT_S, metadata=metadata
                ):
                    yield self._compared(event)
                yield []

    def _compared(self, event: pb.GenerateStreamResponse) -> list[Any]:
        if not self._bits:
            return list(event.token_ids)
        return [
            (p.token_id, p.logprob, *((t.token_id, t.logprob) for t in p.top))
            for p in event.logprobs
        ]


class HttpStream(Stream):
    """Stream of the adapter `good`."""

    name = "HTTP, good"

    async def events(self) -> AsyncIterator[list[Any]]:
        own = {"model": "good", "prompt": self.ids, "max_tokens": TOKENS, "logprobs": 2}
        limit = aiohttp.ClientTimeout(total=TIMEOUT_S)
        headers = {"authorization": self._token}
        async with aiohttp.ClientSession(
            f"http://{self._target}", headers=headers, timeout=limit
        ) as session:
            while True:
                request = own | self.sampling | {"stream": True}
                async with session.post("/v1/completions", json=request) as answer:
                    if answer.status != 200:
                        raise aiohttp.ClientError(f"{answer.status} {(await answer.text())[:150]}")
                    async for line in answer.content:
                        if new := self._compared(line):
                            yield new
                yield []

    def _compared(self, line: bytes) -> list[Any]:
        if not line.startswith(b"data: {"):
            return []
        event = json.loads(line[6:])
        if "error" in event:
            raise aiohttp.ClientError(str(event["error"]))
        entries = [choice["logprobs"] for choice in event["choices"] if choice.get("logprobs")]
        kept = ("tokens", "token_logprobs", "top_logprobs") if self._bits else ("tokens",)
        return [token for one in entries for token in zip(*(one[k] for k in kept), strict=True)]


class HealthChecks:
    """Asks whether the server is live, and ready; over HTTP too."""

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

    async def run_http(self, target: str) -> None:
        limit = aiohttp.ClientTimeout(total=HEALTH_TIMEOUT_S)
        while True:
            began, answer = time.monotonic(), ""
            try:
                # A connection of its own each time, as probes have.
                async with (
                    aiohttp.ClientSession(timeout=limit) as session,
                    session.get(f"http://{target}/health") as got,
                ):
                    answer = "" if got.status == 200 else f"HTTP: {got.status}"
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                answer = f"HTTP: {error!r}"[:100]
            self.seen.append((began, time.monotonic(), answer))
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


def report_of(streams: Sequence[Stream], health: HealthChecks, since: float) -> dict[str, Any]:
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


async def main(target: str, http_target: str, token: str, compared: str = "bits") -> None:
    bits = compared == "bits"
    streams = [GrpcStream(target, 0, token, bits), HttpStream(http_target, 1, token, bits)]
    health = HealthChecks()
    loop = asyncio.get_running_loop()
    running = [loop.create_task(stream.run()) for stream in streams]
    running += [
        loop.create_task(health.run(target)),
        loop.create_task(health.run_http(http_target)),
    ]
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
