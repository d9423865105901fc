"""Clients that take as little of the machine as they can: gRPC's own, and bytes of a socket."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import grpc
from loramux.v1 import inference_pb2, inference_pb2_grpc


@dataclass(frozen=True)
class Streams:
    """Streams of one round: when their events came, in seconds since all were sent."""

    wall_s: float
    times: list[list[float]]
    answers: Callable[[], list[tuple[str, int]]]
    """Text and number of tokens of each; made when the clock has stopped."""


class Client(Protocol):
    """Client of one front."""

    async def run(self, prompts: list[list[int]], names: list[str], tokens: int) -> Streams:
        """Send all requests at once, on connections that stand, and read their streams."""

    def is_open(self) -> bool:
        """Look whether the port takes connections."""


class _Client:
    def __init__(self, port: int) -> None:
        self._port = port

    def is_open(self) -> bool:
        with socket.socket() as trial:
            return trial.connect_ex(("127.0.0.1", self._port)) == 0


class GrpcClient(_Client):
    """32 calls on one channel."""

    async def run(self, prompts: list[list[int]], names: list[str], tokens: int) -> Streams:
        requests = [
            inference_pb2.GenerateRequest(
                token_ids=prompt, adapter_id=name, max_new_tokens=tokens, ignore_eos=True
            )
            for prompt, name in zip(prompts, names, strict=True)
        ]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self._port}") as channel:
            await channel.channel_ready()
            stub = inference_pb2_grpc.InferenceStub(channel)
            started = time.perf_counter()
            streams = await asyncio.gather(*(self._read(stub, one) for one in requests))
            wall_s = time.perf_counter() - started
        times = [[at - started for _, at in stream] for stream in streams]
        return Streams(wall_s, times, lambda: [_joined(stream) for stream in streams])

    @staticmethod
    async def _read(
        stub: inference_pb2_grpc.InferenceStub, request: inference_pb2.GenerateRequest
    ) -> list[tuple[inference_pb2.GenerateStreamResponse, float]]:
        return [(message, time.perf_counter()) async for message in stub.GenerateStream(request)]


def _joined(
    stream: list[tuple[inference_pb2.GenerateStreamResponse, float]],
) -> tuple[str, int]:
    messages = [message for message, _ in stream]
    return "".join(m.text for m in messages), sum(len(m.token_ids) for m in messages)


class HttpClient(_Client):
    """32 connections with a stream each, that stand before."""

    async def run(self, prompts: list[list[int]], names: list[str], tokens: int) -> Streams:
        loop = asyncio.get_running_loop()
        connections = [
            (await loop.create_connection(_Stream, "127.0.0.1", self._port))[1] for _ in prompts
        ]
        requests = [
            _request(prompt, name, tokens) for prompt, name in zip(prompts, names, strict=True)
        ]
        started = time.perf_counter()
        for connection, request in zip(connections, requests, strict=True):
            connection.start(request)
        await asyncio.gather(*(one.ended for one in connections))
        wall_s = time.perf_counter() - started
        times = [[at - started for at in one.times] for one in connections]
        return Streams(wall_s, times, lambda: [one.answer() for one in connections])


class _Stream(asyncio.Protocol):
    """Connection with one streamed answer: what comes is kept, and its events are counted."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.times: list[float] = []
        self._data = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def start(self, request: bytes) -> None:
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        # An event is one write of the server's, far smaller than what is read at once.
        self.times += [time.perf_counter()] * data.count(b"data: {")
        if b"data: [DONE]" in data:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        self._transport.close()
        if not self.ended.done():
            self.ended.set_result(None)

    def answer(self) -> tuple[str, int]:
        """Text of all events, and the number of tokens that the last one tells."""
        lines = bytes(self._data).splitlines()
        found = [line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: {")]
        events = [json.loads(event) for event in found]
        if not events or not events[-1].get("usage"):
            raise SystemExit(f"no whole stream: {bytes(self._data[-300:])!r}")
        text = "".join(choice["text"] for event in events for choice in event["choices"])
        return text, events[-1]["usage"]["completion_tokens"]


def _request(prompt: list[int], name: str, tokens: int) -> bytes:
    asked = {"model": name, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True}
    stream = {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    body = json.dumps(asked | stream).encode()
    head = ["POST /v1/completions HTTP/1.1", "host: localhost", "content-type: application/json"]
    return "\r\n".join([*head, f"content-length: {len(body)}", "", ""]).encode() + body


FRONTS: dict[str, Callable[[int], Client]] = {"grpc": GrpcClient, "http": HttpClient}
