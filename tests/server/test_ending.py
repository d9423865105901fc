"""The end of the process: on time whatever hangs, and with nothing left behind."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from loramux.v1 import inference_pb2, inference_pb2_grpc

from ..support.processes import is_alive, wait_until
from ..support.servers import free_port
from .test_process import ROOT, Process, long_stream

HANGS = {
    "a lock": "threading.Event().wait()",
    # It has the interpreter, and no thread can run.
    "C": "ctypes.PyDLL(None).sleep(1000)",
}


def run(*lines: str) -> subprocess.CompletedProcess[str]:
    code = "\n".join(
        [
            "import atexit, ctypes, sys, threading, time",
            "from server.lifecycle import ending",
            *lines,
        ]
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60
    )


@pytest.mark.parametrize(("hang", "status"), [("a lock", 7), ("C", 1)])
def test_what_hangs_is_cut_off(hang: str, status: int) -> None:
    done = run("ending.PATIENCE_S = 0.5", "ending.end_by(0.1, 7)", HANGS[hang])
    assert done.returncode == status
    assert ("the stop took too long" in done.stdout) == (hang == "a lock")


def test_the_line_names_what_is_left() -> None:
    done = run(
        "threading.Thread(target=threading.Event().wait, name='the-engine', daemon=True).start()",
        "ending.end_by(0.1, 0)",
        "threading.Event().wait()",
    )
    assert "the-engine" in done.stdout


def test_a_log_that_nobody_reads_does_not_keep_the_process() -> None:
    read, write = os.pipe()
    os.write(write, b"x" * fcntl.fcntl(write, fcntl.F_GETPIPE_SZ))  # it is full
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import threading; from server.lifecycle import ending; ending.end_by(0.1, 7); threading.Event().wait()",
        ],
        stdout=write,
        stderr=write,
        cwd=ROOT,
    )
    assert process.wait(timeout=60) == 7
    os.close(read)
    os.close(write)


@pytest.mark.slow
def test_leaving_waits_once_for_who_reads_the_log() -> None:
    read, write = os.pipe()
    os.write(write, b"x" * fcntl.fcntl(write, fcntl.F_GETPIPE_SZ))  # it is full
    code = [
        "import logging, os, time",
        "from server import logs; from server.lifecycle import ending",
        "from server.logs import setup",
        "setup.FINISH_S = 2",
        "logs.configure('console', 'info')",
        "logging.warning('a line')",
        "begun, end = time.monotonic(), os._exit",
        "os._exit = lambda status: (print(time.monotonic() - begun, flush=True), end(status))",
        "ending.leave(0)",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)],
        stdout=subprocess.PIPE,
        stderr=write,
        cwd=ROOT,
        timeout=60,
    )
    assert 2 <= float(done.stdout) < 4
    os.close(read)
    os.close(write)


def test_leaving_does_what_was_registered_for_the_exit() -> None:
    done = run(
        "atexit.register(print, 'registered', end='')",
        "work = threading.Thread(target=lambda: (time.sleep(0.2), print('worked')))",
        "work.start()",
        "ending.leave(3)",
    )
    assert (done.returncode, done.stdout) == (3, "worked\nregistered")


def test_leaving_takes_nothing_from_a_load_that_hangs() -> None:
    done = run(
        "atexit.register(print, 'registered')",
        "threading.Thread(target=threading.Event().wait, name='a-load').start()",
        "ending.end_soon(5)",
        "ending.leave(3)",
    )
    assert done.returncode == 5
    assert "a-load" in done.stdout
    assert "registered" not in done.stdout


def test_processes_that_are_stopped_go_too(tmp_path: Path) -> None:
    code = """
import multiprocessing, os, signal, sys, time
from server.lifecycle import ending
if __name__ == "__main__":
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,), daemon=True)
    child.start()
    os.kill(child.pid, signal.SIGSTOP)
    print(child.pid, flush=True)
    ending.end_now(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    wait_until(lambda: not is_alive(int(done.stdout)))


def children(pid: int) -> list[int]:
    found = []
    for tasks in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (tasks / "children").read_text().split()]
    return found


def start(tmp_path: Path, tiny_base: Path, adapter: Path, *args: str) -> Process:
    return Process(tmp_path, "--base", str(tiny_base), "--adapter", f"a1={adapter}", *args)


@pytest.mark.slow
def test_clients_that_stay(tmp_path: Path, tiny_base: Path, tiny_adapters: dict[str, Path]) -> None:
    """A stream that is never read, a connection that is never closed, a scraper that asks nothing:
    none of them keeps the process, and nothing is left of it."""
    metrics_port, temporary = free_port(), tmp_path / "tmp"
    temporary.mkdir()
    shared = set(Path("/dev/shm").iterdir())
    server = start(
        tmp_path,
        tiny_base,
        tiny_adapters["a1"],
        *("--metrics-port", str(metrics_port), "--drain-s", "1"),
    )
    with server.channel() as channel, server.channel() as idle:
        server.wait_until_serving(channel)
        grpc.channel_ready_future(idle).result(timeout=60)
        with socket.create_connection(("127.0.0.1", metrics_port)) as scraper:
            scraper.sendall(b"GET /metr")
            unread = inference_pb2_grpc.InferenceStub(channel).GenerateStream(
                inference_pb2.GenerateRequest(
                    prompt="x", max_new_tokens=400, ignore_eos=True, n=8, logprobs=5
                )
            )
            started = children(server.process.pid)
            assert server.stop() == 0
            assert not any(map(is_alive, started))
            unread.cancel()
    assert server.lines()[-1]["event"] == "stopped"
    assert set(Path("/dev/shm").iterdir()) <= shared


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(
    tmp_path: Path, tiny_base: Path, tiny_adapters: dict[str, Path]
) -> None:
    server = start(tmp_path, tiny_base, tiny_adapters["a1"], "--drain-s", "1000")
    with server.channel() as channel:
        server.wait_until_serving(channel)
        stream = long_stream(channel)
        next(stream)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "draining" in server.log.read_text())
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=60) == 1


@pytest.mark.slow
def test_a_disk_that_hangs(tmp_path: Path, tiny_base: Path, tiny_adapters: dict[str, Path]) -> None:
    """The look for declared adapters never comes back, and all that waits for it is cut off."""
    manifest = tmp_path / "adapters.yaml"
    os.mkfifo(manifest)
    server = start(
        tmp_path,
        tiny_base,
        tiny_adapters["a1"],
        *("--adapter-manifest", str(manifest), "--drain-s", "0"),
    )
    wait_until(lambda: '"event": "serving"' in server.log.read_text(), seconds=120)
    assert server.stop() == 1
    last = server.lines()[-1]
    assert last["event"] == "the stop took too long and is cut off"
    assert "loramux-declared" in last["names"]
