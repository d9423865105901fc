"""SIGTERM during each kind of attack: health tells that it drains, and the process ends in time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ..support.processes import descendants, wait_until
from . import http2
from .arena import Arena, expect
from .attackers import Attackers
from .calls import asked
from .fronts import GRPC
from .ground import Ground
from .kinds import KINDS, PATIENCE_S, Attack, go_on
from .memory import tree_mb
from .report import Row, add
from .server import SERVING, ServerProcess

pytestmark = pytest.mark.attacks

OVER_S = 2
"""What a server may take beside `drain_s`."""
QUICK = ("renders", "loads", "everything")
"""Kinds that are tried with the other attacks; each has a server of its own."""


class Reserve:
    """Servers that start while another one is attacked: here nobody's gaps are measured."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._starting = [ground.serve()]

    def take(self) -> ServerProcess:
        self._starting.append(self._ground.serve())
        server = self._starting.pop(0)
        server.wait_until_serving()
        return server

    def end(self) -> None:
        for server in self._starting:
            server.kill()


@pytest.fixture(scope="module", autouse=True)
def no_arena() -> None:
    """Servers that end have the machine to themselves."""
    Arena.end_any()


@pytest.fixture(scope="module")
def reserve(ground: Ground) -> Iterator[Reserve]:
    reserve = Reserve(ground)
    yield reserve
    reserve.end()


@pytest.fixture
def arena(attackers: Attackers) -> Arena:
    """Attackers alone: each test has a server of its own."""
    return Arena(lambda: pytest.fail("no server is shared here"), attackers)


@pytest.mark.parametrize(
    "kind", [k if k in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in KINDS]
)
def test_sigterm(arena: Arena, ground: Ground, reserve: Reserve, kind: str) -> None:
    _twice(f"SIGTERM: {kind}", lambda: _ended(arena, ground, reserve.take(), KINDS[kind]))


def _twice(name: str, trial: Callable[[], tuple[str, float, float]]) -> None:
    """Try it, once more if it comes out late: a machine that others use too may be the cause."""
    problem, seconds, memory = trial()
    if problem.startswith("late"):
        problem, seconds, memory = trial()
    outcome = problem or f"ended after {seconds:.1f} s"
    mb = round(memory)
    add(Row(name, 0, 0, 0, mb, mb, 0, round(seconds, 1), outcome, not problem))
    assert not problem, f"{name}: {problem}"


def _ended(
    arena: Arena, ground: Ground, server: ServerProcess, attack: Attack
) -> tuple[str, float, float]:
    try:
        with ExitStack() as stack:
            attack(arena, ground, server, stack)
            time.sleep(0.7)
            memory = tree_mb(server.pid)
            problem, seconds = _terminate(server)
            return problem, seconds, memory
    finally:
        server.kill()


def _terminate(server: ServerProcess) -> tuple[str, float]:
    """What is wrong with how it ends, and the seconds that it took."""
    with server.channel() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest(), timeout=10).status == SERVING
        server.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        time.sleep(0.4)
        ready = SERVING + 1
        with suppress(grpc.RpcError):  # it takes no calls any more, or is gone
            ready = stub.Check(health_pb2.HealthCheckRequest(), timeout=1).status
    with suppress(Exception):
        server.process.wait(began + PATIENCE_S - time.monotonic())
    seconds = time.monotonic() - began
    status = server.process.poll()
    if status is None:
        return f"late: there after {seconds:.0f} s", seconds
    if status:
        return f"status {status}: {server.last_words()[-300:]}", seconds
    if ready == SERVING:
        return "health: ready 0.4 s after SIGTERM", seconds
    late = seconds > server.drain_s + OVER_S
    return f"late: ended after {seconds:.1f} s" if late else "", seconds


def test_watches_during_the_start(arena: Arena, ground: Ground) -> None:
    """They keep the server neither from getting ready nor from ending."""

    def trial() -> tuple[str, float, float]:
        server = ground.serve()
        try:
            with ExitStack() as stack:
                _attach(server, stack)
                server.wait_until_serving()
                problem, seconds = _terminate(server)
                return problem, seconds, 0.0
        finally:
            server.kill()

    _twice("SIGTERM: watches since the start", trial)


def _attach(server: ServerProcess, stack: ExitStack) -> None:
    """As soon as the port is open."""
    end = time.monotonic() + 60
    while True:
        try:
            watch = http2.calls_without_window(
                server.target, message=http2.watch_message(""), streams=5
            )
            stack.enter_context(watch)
            return
        except ConnectionRefusedError:
            assert time.monotonic() < end, "the server does not listen"
            time.sleep(0.02)


@pytest.mark.slow
def test_nobody_reads_the_log(arena: Arena, ground: Ground) -> None:
    """Lines are lost; requests are answered and health is told."""
    request = asked(request_id="r" * 128, max_new_tokens=1)

    def trial() -> tuple[str, float, float]:
        server = ground.serve(read_log=False)
        try:
            server.wait_until_serving()
            for _ in range(15):  # one caller may have 48 at once: 32 that run and 16 that wait
                outcomes = GRPC.send(
                    arena.attackers, server, [request] * 40, "attacker", timeout=20
                )
                expect(outcomes, "OK")
            problem, seconds = _terminate(server)
            return problem, seconds, 0.0
        finally:
            server.kill()

    _twice("SIGTERM: nobody reads the log", trial)


@pytest.mark.slow
def test_a_step_that_hangs(arena: Arena, ground: Ground) -> None:
    """A process of the group stops without ending: health tells, and the server can be ended."""

    def trial() -> tuple[str, float, float]:
        server = ground.serve("--device", "cpu", "--tensor-parallel", 2, "--step-timeout-s", 2)
        stopped: list[int] = []
        try:
            server.wait_until_serving()
            stopped = list(descendants(server.pid))
            assert stopped
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            with ExitStack() as stack:
                go_on(arena, server, stack, GRPC, [asked()])
                with server.channel() as channel:
                    stub = health_pb2_grpc.HealthStub(channel)
                    live = health_pb2.HealthCheckRequest(service="live")
                    wait_until(lambda: stub.Check(live, timeout=5).status != SERVING, 20)
                status, seconds = server.terminate(PATIENCE_S)
            late = status is None or seconds > server.drain_s + OVER_S
            return f"late: status {status} after {seconds:.1f} s" if late else "", seconds, 0.0
        finally:
            server.kill()

    _twice("SIGTERM: a step that hangs", trial)
