"""The real process: signals, exit codes, logs."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from loramux.v1 import adapters_pb2, adapters_pb2_grpc, inference_pb2, inference_pb2_grpc

from server.auth.tokens import token_hash

from ..support.processes import wait_until
from ..support.servers import free_port
from ..support.tokens import bearer, token_of, write_tokens

ROOT = Path(__file__).parents[2]
SERVING = health_pb2.HealthCheckResponse.SERVING
SECRET = "the prompt is nobody's business"


class Process:
    """`loramux serve` on the tiny base; standard error goes to a file."""

    def __init__(self, tmp_path: Path, *args: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.log = tmp_path / "server.log"
        command = [
            sys.executable,
            "-m",
            "server",
            "serve",
            "--port",
            str(self.port),
            "--http-port",
            "0",
            "--metrics-port",
            "0",
            "--dtype",
            "float32",
            "--kv-cache-bytes",
            str(8 << 20),
            *args,
        ]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stderr=log)

    @contextlib.contextmanager
    def channel(self) -> Iterator[grpc.Channel]:
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            yield channel

    def wait_until_serving(self, channel: grpc.Channel) -> None:
        grpc.channel_ready_future(channel).result(timeout=120)
        for status in health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=120
        ):
            if status.status == SERVING:
                return

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def lines(self) -> list[dict]:
        return [
            json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")
        ]


def long_stream(channel: grpc.Channel) -> Any:
    request = inference_pb2.GenerateRequest(
        prompt=SECRET, max_new_tokens=400, ignore_eos=True, request_id="r-77", adapter_id="a1"
    )
    return inference_pb2_grpc.InferenceStub(channel).GenerateStream(request)


def call_until_refused(channel: grpc.Channel) -> None:
    """A signal is not heard at once."""
    while True:
        inference_pb2_grpc.InferenceStub(channel).Generate(
            inference_pb2.GenerateRequest(prompt="x", max_new_tokens=1)
        )


def test_sigterm_drains(tmp_path: Path, tiny_base: Path, tiny_adapters: dict[str, Path]) -> None:
    server = Process(
        tmp_path,
        "--base",
        str(tiny_base),
        "--adapter",
        f"a1={tiny_adapters['a1']}",
        "--drain-s",
        "60",
    )
    with server.channel() as channel:
        server.wait_until_serving(channel)
        stream = long_stream(channel)
        first = next(stream)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as caught:
            call_until_refused(channel)  # the stream still runs then
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        events = [first, *stream]
        assert events[-1].finish_reason == inference_pb2.FINISH_REASON_LENGTH
        assert sum(len(e.token_ids) for e in events) == 400
    assert server.process.wait(timeout=60) == 0
    check_logs(server)


def check_logs(server: Process) -> None:
    lines = server.lines()
    events = [line["event"] for line in lines]
    assert (
        events.index("listening")
        < events.index("serving")
        < events.index("draining")
        < events.index("stopped")
    )
    (finished,) = [line for line in lines if line.get("request_id") == "r-77"]
    assert (finished["event"], finished["outcome"], finished["adapter"]) == (
        "request finished",
        "ok",
        "a1",
    )
    assert finished["completion_tokens"] == 400
    assert list(finished)[:3] == ["timestamp", "level", "event"]
    assert SECRET not in server.log.read_text()


@pytest.mark.slow
def test_sigterm_without_patience(
    tmp_path: Path, tiny_base: Path, tiny_adapters: dict[str, Path]
) -> None:
    server = Process(
        tmp_path,
        "--base",
        str(tiny_base),
        "--adapter",
        f"a1={tiny_adapters['a1']}",
        "--drain-s",
        "0",
    )
    with server.channel() as channel:
        server.wait_until_serving(channel)
        stream = long_stream(channel)
        next(stream)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError):
            list(stream)
        assert stream.code() is grpc.StatusCode.UNAVAILABLE
    assert server.process.wait(timeout=60) == 0


@pytest.mark.slow
def test_sigterm_while_loading(tmp_path: Path, tiny_base: Path) -> None:
    server = Process(tmp_path, "--base", str(tiny_base))
    with server.channel() as channel:
        grpc.channel_ready_future(channel).result(timeout=120)
    assert server.stop() == 0


def test_sigterm_is_heard_before_libraries_are_loaded(tmp_path: Path, tiny_base: Path) -> None:
    """As a container's first process it would be ignored, and the container killed."""
    server = Process(tmp_path, "--base", str(tiny_base))
    wait_until(lambda: hears(server.process.pid, signal.SIGTERM))
    assert "libtorch" not in Path(f"/proc/{server.process.pid}/maps").read_text()
    assert server.stop() == 128 + signal.SIGTERM


def hears(pid: int, number: int) -> bool:
    """True if the process has a handler of its own."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (number - 1) & 1)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A store that takes connections and never answers."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield silent


@pytest.mark.slow
def test_sigterm_during_a_download_that_hangs(
    tmp_path: Path, tiny_base: Path, silent: socket.socket
) -> None:
    url = f"http://127.0.0.1:{silent.getsockname()[1]}/a"
    server = Process(tmp_path, "--base", str(tiny_base), "--adapter-source", url, "--drain-s", "0")
    with server.channel() as channel:
        server.wait_until_serving(channel)
        call = adapters_pb2_grpc.AdaptersStub(channel).LoadAdapter.future(
            adapters_pb2.LoadAdapterRequest(source=url, adapter_id="a")
        )
        with silent.accept()[0]:
            assert server.stop() == 0
        assert isinstance(call.exception(), grpc.RpcError)
    assert server.lines()[-1]["event"] == "loads are left unfinished"
    assert server.lines()[-1]["names"] == ["loramux-loading_0"]


@pytest.mark.slow
def test_sigterm_during_a_start_that_hangs(
    tmp_path: Path, tiny_base: Path, silent: socket.socket
) -> None:
    url = f"http://127.0.0.1:{silent.getsockname()[1]}/a"
    server = Process(tmp_path, "--base", str(tiny_base), "--adapter", f"a={url}", "--drain-s", "0")
    with silent.accept()[0]:
        assert server.stop() == 0
    assert [line["event"] for line in server.lines()][-2:] == [
        "stopped",
        "loads are left unfinished",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--base", "no/such/dir"], "is not a directory"),
        (["--base", "BASE", "--adapter", "x=no/such/dir"], "is not a directory"),
    ],
    ids=["base", "adapter"],
)
def test_what_cannot_be_loaded_ends_the_process(
    tmp_path: Path, tiny_base: Path, args: list[str], says: str
) -> None:
    server = Process(tmp_path, *(str(tiny_base) if a == "BASE" else a for a in args))
    assert server.process.wait(timeout=120) == 1
    assert any(says in line.get("error", "") for line in server.lines())


@pytest.mark.slow
def test_no_secret_in_the_log(
    tmp_path: Path, tiny_base: Path, tiny_adapters: dict[str, Path]
) -> None:
    tokens = write_tokens(
        tmp_path / "tokens.yaml", root={"adapters": ["*"], "admin": True}, user={"adapters": ["a0"]}
    )
    server = Process(
        tmp_path,
        "--base",
        str(tiny_base),
        "--adapter",
        f"a1={tiny_adapters['a1']}",
        "--auth-file",
        str(tokens),
        "--adapter-root",
        str(tiny_adapters["a0"].parent),
        "--log-level",
        "debug",
    )
    generate = inference_pb2.GenerateRequest(prompt=SECRET, max_new_tokens=2, adapter_id="a1")
    load = adapters_pb2.LoadAdapterRequest(path="a0")
    with server.channel() as channel:
        server.wait_until_serving(channel)
        inference, adapters = (
            inference_pb2_grpc.InferenceStub(channel),
            adapters_pb2_grpc.AdaptersStub(channel),
        )
        inference.Generate(generate, metadata=bearer("root"))
        adapters.LoadAdapter(load, metadata=bearer("root"))
        for who, code in (
            ("user", grpc.StatusCode.PERMISSION_DENIED),
            ("nobody", grpc.StatusCode.UNAUTHENTICATED),
        ):
            for call, request in ((inference.Generate, generate), (adapters.LoadAdapter, load)):
                with pytest.raises(grpc.RpcError) as caught:
                    call(request, metadata=bearer(who))
                assert caught.value.code() is code
    assert server.stop() == 0
    text = server.log.read_text()
    for who in ("root", "user", "nobody"):
        assert token_of(who) not in text
        assert token_hash(token_of(who)) not in text
    assert SECRET not in text
    lines = server.lines()
    (admin,) = [line for line in lines if line["event"] == "admin call"]
    assert (admin["caller"], admin["adapters"]) == ("root", ["a0"])
    refusals = [line.get("caller") for line in lines if line["event"] == "call refused"]
    assert refusals == ["user", "user", None, None]


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--port", "--http-port", "--metrics-port"])
def test_a_taken_port_ends_the_process(tmp_path: Path, tiny_base: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = Process(tmp_path, "--base", str(tiny_base), flag, str(port))
        assert server.process.wait(timeout=120) == 1
    assert server.lines()[-1]["event"] == "the server cannot listen"
    assert server.lines()[-1]["error"].endswith(f"] {flag} {port}: Address already in use")
