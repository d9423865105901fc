"""The log of real processes: JSON from the first line to the last, and nobody waits for its reader."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import grpc
import pytest
from loramux.v1 import inference_pb2 as pb
from loramux.v1 import inference_pb2_grpc

from ..support.certificates import Authority
from ..support.servers import free_port
from .test_process import ROOT, Process


def run(script: str) -> tuple[int, list[dict[str, Any]]]:
    """Status and lines of a process; fails if any line is not JSON."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_what_goes_past_the_log_is_logged() -> None:
    status, lines = run(
        """
        import logging, os, subprocess, sys, threading, warnings
        from server import logs
        logs.configure("json", "info")
        class Ignored:
            def __del__(self): raise ValueError("ignored")
        def fail(): raise KeyError("thread")
        warnings.warn("old")
        logging.getLogger("library").error("two\\nlines")
        print("printed")
        print("to stderr", file=sys.stderr)
        os.write(2, b"from C++\\nwithout an end")
        subprocess.run(["sh", "-c", "echo; echo child; echo child >&2"])
        thread = threading.Thread(target=fail); thread.start(); thread.join()
        Ignored()
        raise RuntimeError("the end")
        """
    )
    assert status == 1
    text = " ".join(json.dumps(line) for line in lines)
    for said in ("old", "printed", "to stderr", "from C++", "without an end", "child"):
        assert said in text
    whole = [line for line in lines if "exception" in line]
    assert [line["exception"].splitlines()[-1] for line in whole] == [
        "KeyError: 'thread'",
        "ValueError: ignored",
        "RuntimeError: the end",
    ]
    assert all({"timestamp", "level", "event"} <= line.keys() for line in lines)


def test_an_end_at_once_keeps_the_last_lines() -> None:
    status, lines = run(
        """
        import os
        from server import logs; from server.lifecycle import ending
        logs.configure("json", "info")
        import structlog
        for i in range(1000):
            structlog.get_logger().info("line", number=i)
        os.write(2, b"from C++")
        ending.end_now(3)
        """
    )
    assert status == 3
    assert [line["number"] for line in lines if "number" in line] == list(range(1000))
    assert lines[-1]["event"] == "from C++"


def serve(log: Any, base: Path, *args: str) -> tuple[subprocess.Popen, int]:
    port = free_port()
    command = [sys.executable, "-m", "server", "serve", "--port", str(port)]
    command += ["--http-port", "0", "--metrics-port", "0"]
    command += ["--base", str(base), "--dtype", "float32", "--kv-cache-bytes", str(8 << 20), *args]
    return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log), port


@pytest.mark.slow
def test_a_log_that_nobody_reads_stops_nothing(tiny_base: Path) -> None:
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    process, port = serve(write, tiny_base)
    os.close(write)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            wait_until_serving(channel)
            generate = inference_pb2_grpc.InferenceStub(channel).Generate
            for _ in range(50):  # some 350 bytes of log each
                generate(pb.GenerateRequest(prompt="hi", max_new_tokens=1), timeout=60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        os.close(read)


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_outputs_are_open_on_nothing(closed: str) -> None:
    script = """
        import os, socket
        from server import cli, entry
        def run():
            from server import logs
            taken = socket.socket()
            logs.configure("json", "info")
            print("printed")
            os.write(2, b"written\\n")
            logs.finish()
            os._exit(taken.fileno() if taken.fileno() < 3 else 0)
        cli.main = run
        entry.main()
        """
    command = f'exec "$0" -c "$1" {closed}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, textwrap.dedent(script)],
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0


@pytest.mark.slow
def test_a_servers_log_is_json_from_the_first_line_to_the_last(
    tmp_path: Path, tiny_base: Path, tiny_adapters: dict[str, Path]
) -> None:
    authority = Authority(tmp_path / "ca", "authority")
    pair = authority.issue("server")
    tls = ("--tls-cert", str(pair.cert), "--tls-key", str(pair.key))
    path = tmp_path / "log"
    with path.open("wb") as log:
        process, port = serve(log, tiny_base, "--adapter", f"a={tiny_adapters['a0']}", *tls)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as plain:  # a handshake that fails
        credentials = grpc.ssl_channel_credentials(authority.cert.read_bytes())
        with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
            wait_until_serving(channel)
            stub = inference_pb2_grpc.InferenceStub(channel)
            stub.Generate(pb.GenerateRequest(prompt="hi", adapter_id="a"), timeout=60)
            with pytest.raises(grpc.RpcError):
                stub.Generate(pb.GenerateRequest(prompt="", request_id="bad"), timeout=60)
            with pytest.raises(grpc.RpcError):
                inference_pb2_grpc.InferenceStub(plain).Generate(pb.GenerateRequest(), timeout=60)
            garbage: Any = channel.unary_unary("/loramux.v1.Inference/Generate")
            with pytest.raises(grpc.RpcError):
                garbage(b"\xff\xff", timeout=60, metadata=[("x-request-id", "bad")])
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[-1]["event"] == "stopped"
    assert "bad" in [line.get("request_id") for line in lines]
    assert "is no loramux.v1.GenerateRequest" in path.read_text()
    assert not [e for e in lines if e["level"] != "info" and e.get("request_id") != "bad"]


def wait_until_serving(channel: grpc.Channel) -> None:
    Process.wait_until_serving(None, channel)  # type: ignore[arg-type]
