"""Looks at stand-ins for replicas, and what comes of them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import structlog

from server.placement import fleet
from server.placement.placer import Placer
from server.placement.settings import Settings
from server.placement.targets import Address, Target

from .replicas import StandIn, stand_ins


def placer_of(replicas: list[StandIn]) -> Placer:
    now = iter(range(0, 10_000, 5))
    targets = [Target("127.0.0.1", replica.port) for replica in replicas]
    return Placer(Settings(targets), lambda: float(next(now)))


def placed(placer: Placer) -> dict[str, list[str]]:
    assert placer.published is not None
    return {name: [n for n, _ in ways] for name, ways in placer.published.placement.items()}


def test_adapters_are_placed_where_they_are() -> None:
    with stand_ins(2) as (one, other):
        placer = placer_of([one, other])
        placer.look()
        assert placer.published is None  # nobody has asked for anything
        one.work, one.resident = {"a": 10}, {"a"}
        other.work, other.resident = {"b": 10}, {"b"}
        placer.look()
    assert placed(placer) == {"a": [f"127.0.0.1:{one.port}"], "b": [f"127.0.0.1:{other.port}"]}
    assert placer.counts.changes == 1
    assert placer.counts.moves == 0


def test_a_replica_is_gone_after_three_looks_without_an_answer() -> None:
    with stand_ins(2) as (one, other):
        placer = placer_of([one, other])
        one.work, other.work = {"a": 10}, {"b": 10}
        placer.look()
        before = placed(placer)
        assert len({home for homes in before.values() for home in homes}) == 2
        other.close()
        for _ in range(2):
            placer.look()
            assert placed(placer) == before
        placer.look()
        there = f"127.0.0.1:{one.port}"
        assert placed(placer) == {"a": [there], "b": [there]}
        one.close()
        for _ in range(4):  # nobody answers: more likely it is the network here
            placer.look()
    assert placed(placer) == {"a": [there], "b": [there]}
    assert placer.fleet.failures == 3 + 8


def test_a_page_that_is_not_to_be_used_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with stand_ins(1) as (one,):
        placer = placer_of([one])
        one.work = {"a": 10}
        placer.look()
        one.work = {"a": float("nan"), "b": float("inf")}
        placer.look()
        assert placer.fleet.failures == 1
        one.work = {"b": 10}
        monkeypatch.setattr(fleet, "_MOST_BYTES", 10)
        placer.look()
        assert placer.fleet.failures == 2
    assert placed(placer) == {"a": [f"127.0.0.1:{one.port}"]}


def test_a_name_that_the_dns_does_not_have_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = fleet.resolve

    def resolve(target: Target) -> dict[str, Address]:
        if target.host == "gone":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found(target)

    monkeypatch.setattr(fleet, "resolve", resolve)
    with stand_ins(1) as (one,), structlog.testing.capture_logs() as logs:
        placer = Placer(Settings([Target("gone", 9464), Target("127.0.0.1", one.port)]))
        one.work = {"a": 10}
        placer.look()
    assert placed(placer) == {"a": [f"127.0.0.1:{one.port}"]}
    assert [line["host"] for line in logs if "DNS" in line["event"]] == ["gone"]


def test_what_the_dns_has_no_longer_is_asked_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(target: Target) -> dict[str, Address]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    with stand_ins(1) as (one,):
        placer = placer_of([one])
        one.work = {"a": 10}
        placer.look()
        monkeypatch.setattr(fleet, "resolve", nothing)
        one.work = {"a": 20, "b": 20}
        placer.look()
    assert set(placed(placer)) == {"a", "b"}
    assert placer.fleet.failures == 1


def test_a_page_that_never_ends_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "_TIMEOUT_S", 0.3)
    with stand_ins(1) as (one,), dripping() as port:
        placer = Placer(Settings([Target("127.0.0.1", port), Target("127.0.0.1", one.port)]))
        one.work = {"a": 10}
        placer.look()
    assert placed(placer) == {"a": [f"127.0.0.1:{one.port}"]}
    assert placer.fleet.failures == 1


@contextmanager
def dripping() -> Iterator[int]:
    """Run a server that answers a byte now and then, and give its port."""
    end = threading.Event()

    def answer() -> None:
        with suppress(OSError), listener.accept()[0] as client:
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while not end.wait(0.02):
                client.sendall(b"#")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            end.set()
            thread.join()


def test_a_port_of_something_else_is_told_by_its_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        placer = Placer(Settings([Target("127.0.0.1", listener.getsockname()[1])]))

        def answer() -> None:
            with listener.accept()[0] as client:
                client.recv(1 << 16)
                client.sendall(b"\0\0\x06\x04\0\0\0\0\0\0\x05\0\0@\0")  # as gRPC's port does

        thread = threading.Thread(target=answer)
        thread.start()
        with structlog.testing.capture_logs() as logged:
            placer.look()
        thread.join()
    (line,) = logged
    assert line["reason"] == "no HTTP there: is it the metrics port?"


def test_a_replica_that_answers_again_is_told_once() -> None:
    with stand_ins(1) as (one,):
        placer = placer_of([one])
        one.work = {"a": -1}
        with structlog.testing.capture_logs() as logged:
            for _ in range(2):
                placer.look()
            one.work = {"a": 1}
            for _ in range(2):
                placer.look()
    events = [line["event"] for line in logged if "replica " in line["event"]]
    assert events == ["replica does not answer", "replica answers again"]


def test_a_name_that_the_dns_does_not_know() -> None:
    placer = Placer(Settings([Target("nowhere.invalid", 9464)]))
    placer.look()
    assert placer.published is None
    assert placer.fleet.failures == 1


def test_moves_follow_loads() -> None:
    with stand_ins(2, slots=40) as (one, other):
        placer = placer_of([one, other])
        one.work = {f"a{i:02}": 10 for i in range(30)}
        one.resident = set(one.work)
        placer.look()
        one.work = dict.fromkeys(one.work, 1000)
        placer.look()
        first = placer.counts.moves
        one.loads = 80
        one.work = dict.fromkeys(one.work, 2000)
        placer.look()
    assert first <= 1
    assert placer.counts.moves <= first + 20
    homes = [ways[0] for ways in placed(placer).values()]
    assert homes.count(f"127.0.0.1:{other.port}") >= 10


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("pods.ns.svc:9464", Target("pods.ns.svc", 9464, 50051, 8000)),
        ("[fd00::1]:9464=50061,8001", Target("fd00::1", 9464, 50061, 8001)),
    ],
)
def test_targets(text: str, target: Target) -> None:
    assert Target.parse(text) == target
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize(
    "text", ["", "host", "host:0", "host:99999", "host:1=", "h:1=2", "a:b:1", "h:1=2,3,4", "a..b:1"]
)
def test_targets_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        Target.parse(text)


def test_addresses_as_envoy_writes_them() -> None:
    assert Address("fd00::1", 9464).served_at("grpc") == "[fd00::1]:50051"
    assert Address("10.0.0.1", 9464, 1, 2).served_at("http") == "10.0.0.1:2"
