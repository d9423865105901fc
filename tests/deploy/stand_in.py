"""A stand-in for a server, as a process that can be killed: answers say which one it is and what it was told.

python tests/deploy/stand_in.py NAME GRPC_PORT HTTP_PORT

As a server does, it ends on SIGTERM after a time in which it says that it is not serving.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from loramux.v1 import inference_pb2, inference_pb2_grpc

DRAIN_DELAY_S = 3
EVENT_S = 0.02
PARTS = 3
SERVING, NOT_SERVING = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
)


class Inference(inference_pb2_grpc.InferenceServicer):
    def __init__(self, name: str) -> None:
        self._name = name

    def Generate(self, request: Any, context: Any) -> Any:
        time.sleep(EVENT_S * request.max_new_tokens)
        told = {key: value for key, value in context.invocation_metadata() if key.startswith("x-")}
        text = json.dumps({"server": self._name, "headers": told, "bytes": len(request.prompt)})
        return inference_pb2.GenerateResponse(adapter_id=request.adapter_id, text=text)

    def GenerateStream(self, request: Any, context: Any) -> Iterator[Any]:
        for _ in range(request.max_new_tokens or PARTS):
            yield inference_pb2.GenerateStreamResponse(text=self._name)
            time.sleep(EVENT_S)


class Pages(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    name: ClassVar[str]
    serving: ClassVar[bool] = True
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer(200 if Pages.serving else 503, {"server": self.name})

    def do_POST(self) -> None:
        body = self._body()
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            asked = {}
        if asked.get("stream"):
            self._stream(asked.get("max_tokens", PARTS))
            return
        told = {key.lower(): value for key, value in self.headers.items()}
        self._answer(200, {"server": self.name, "headers": told, "bytes": len(body)})

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, parts: int) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for _ in range(parts):
            event = f"data: {self.name} {time.time()}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            time.sleep(EVENT_S)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *args: Any) -> None:
        """Keep quiet."""


def main() -> None:
    name, grpc_port, http_port = sys.argv[1:]
    Pages.name = name
    server = grpc.server(ThreadPoolExecutor(64), options=[("grpc.so_reuseport", 0)])
    inference_pb2_grpc.add_InferenceServicer_to_server(Inference(name), server)
    state = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    server.add_insecure_port(f"127.0.0.1:{grpc_port}")
    pages = ThreadingHTTPServer(("127.0.0.1", int(http_port)), Pages)
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    state.set("", SERVING)
    server.start()
    stopped.wait()
    state.set("", NOT_SERVING)
    Pages.serving = False
    time.sleep(DRAIN_DELAY_S)
    server.stop(30).wait()
    os._exit(0)  # pages that are being answered have had their time


if __name__ == "__main__":
    main()
