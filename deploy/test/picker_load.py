"""Calls of many adapters over gRPC and HTTP at once, from the client's pod: reads JSON, prints JSON.

    {"calls": [["support", "unary"], ["support", "http-stream"]], "at_once": 8, "tokens": 8,
     "grpc": "loramux-picker:50051", "http": "loramux-picker:8000", "token": "...", "authority": ""}

With an authority's certificate both speak TLS to a server called loramux.
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import grpc
from loramux.v1 import inference_pb2 as messages
from loramux.v1.inference_pb2_grpc import InferenceStub

TIMEOUT_S = 60


def main() -> None:
    print(json.dumps(Load(json.load(sys.stdin)).run()))


class Load:
    def __init__(self, asked: dict[str, Any]) -> None:
        self._asked = asked
        self._calls: Iterator[tuple[str, str]] = iter(
            [(name, kind) for name, kind in asked["calls"]]
        )
        self._lock = threading.Lock()
        self._ends: Counter[str] = Counter()
        self._seconds: list[float] = []
        self._texts: defaultdict[str, set[str]] = defaultdict(set)

    def run(self) -> dict[str, Any]:
        """Make the calls; gives how they ended, their seconds and what texts each adapter gave."""
        callers = [threading.Thread(target=self._caller) for _ in range(self._asked["at_once"])]
        began = time.monotonic()
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        return {
            "seconds": time.monotonic() - began,
            "ends": dict(self._ends),
            "latencies": sorted(self._seconds),
            "texts": {name: sorted(texts) for name, texts in self._texts.items()},
        }

    def _caller(self) -> None:
        client = Client(self._asked)
        while call := self._next():
            adapter, kind = call
            began = time.monotonic()
            try:
                name, text = client.call(adapter, kind)
                end = "OK" if name == adapter else f"answered by {name}"
            except Exception as error:
                text, end = "", reason(error)
            with self._lock:
                self._ends[end] += 1
                if end == "OK":
                    self._seconds.append(time.monotonic() - began)
                    self._texts[adapter].add(text)

    def _next(self) -> tuple[str, str] | None:
        with self._lock:
            return next(self._calls, None)


class Client:
    """One caller, with connections of its own that it keeps."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self._asked = asked
        self._token = f"Bearer {asked['token']}"
        options = [("grpc.use_local_subchannel_pool", 1)]
        if asked["authority"]:
            options += [("grpc.ssl_target_name_override", "loramux")]
            trusted = grpc.ssl_channel_credentials(asked["authority"].encode())
            channel = grpc.secure_channel(asked["grpc"], trusted, options)
        else:
            channel = grpc.insecure_channel(asked["grpc"], options)
        self._stub = InferenceStub(channel)
        self._http: http.client.HTTPConnection | None = None

    def call(self, adapter: str, kind: str) -> tuple[str, str]:
        """The name and the text that the answer has."""
        if kind.startswith("http"):
            return self._over_http(adapter, kind == "http-stream")
        request = messages.GenerateRequest(
            adapter_id=adapter,
            prompt="hello",
            max_new_tokens=self._asked["tokens"],
            temperature=0,
            ignore_eos=True,
        )
        how: dict[str, Any] = {
            "timeout": TIMEOUT_S,
            "metadata": [("authorization", self._token)],
            "wait_for_ready": True,
        }
        if kind == "unary":
            answer = self._stub.Generate(request, **how)
            return answer.adapter_id, answer.text
        parts = list(self._stub.GenerateStream(request, **how))
        return parts[-1].adapter_id, "".join(part.text for part in parts)

    def _over_http(self, adapter: str, stream: bool) -> tuple[str, str]:
        if self._http is None:
            self._http = self._connection()
        body = {
            "model": adapter,
            "prompt": "hello",
            "max_tokens": self._asked["tokens"],
            "temperature": 0,
            "ignore_eos": True,
            "stream": stream,
        }
        headers = {"authorization": self._token, "content-type": "application/json"}
        try:
            self._http.request("POST", "/v1/completions", json.dumps(body), headers)
            answer = self._http.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException):
            self._http = None
            raise
        if answer.status != 200:
            raise RuntimeError(f"{answer.status} {text[:120]}")
        chunks = events(text) if stream else [json.loads(text)]
        return chunks[-1]["model"], "".join(c["choices"][0]["text"] for c in chunks)

    def _connection(self) -> http.client.HTTPConnection:
        where, authority = self._asked["http"], self._asked["authority"]
        if not authority:
            return http.client.HTTPConnection(where, timeout=TIMEOUT_S)
        trusted = ssl.create_default_context(cadata=authority)
        trusted.check_hostname = False
        return http.client.HTTPSConnection(where, timeout=TIMEOUT_S, context=trusted)


def events(text: str) -> list[Any]:
    """A whole stream's chunks. Raises RuntimeError for one that was cut."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    if not lines or lines[-1] != "[DONE]":
        raise RuntimeError(f"the stream ends with {(lines or ['nothing'])[-1][:120]}")
    return [json.loads(line) for line in lines[:-1]]


def reason(error: Exception) -> str:
    if isinstance(error, grpc.RpcError):
        return f"{error.code().name}: {error.details()}"[:200]
    return f"{type(error).__name__}: {error}"[:200]


if __name__ == "__main__":
    main()
