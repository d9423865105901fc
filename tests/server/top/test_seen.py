"""What is known of a server that answers, and of one that stops to."""

from __future__ import annotations

import grpc
import pytest
from loramux.v1 import adapters_pb2
from loramux.v1 import server_pb2 as pb
from loramux_client import CallError

from server.top.seen import Reader


class Server:
    """A server that answers until it is told an error, by a clock that the test moves."""

    def __init__(self) -> None:
        self.now, self.error = 100.0, grpc.StatusCode.OK
        self.asked = self.listed = 0

    def status(self) -> pb.ServerStatus:
        if self.error is not grpc.StatusCode.OK:
            raise CallError(f"{self.error.name}: gone", self.error, details="gone")
        self.asked += 1
        return pb.ServerStatus(load=pb.Load(steps=self.asked))

    def adapters(self) -> list[adapters_pb2.Adapter]:
        self.listed += 1
        return [adapters_pb2.Adapter(adapter_id=f"a{self.listed}")]

    def clock(self) -> float:
        return self.now


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def reader(server: Server) -> Reader:
    return Reader(server.status, server.adapters, server.clock)


def test_adapters_are_listed_less_often(server: Server, reader: Reader) -> None:
    for second in range(11):
        server.now = 100.0 + second
        assert reader.read().status.load.steps == second + 1
    assert server.listed == 3
    assert [a.adapter_id for a in reader.read().adapters] == ["a3"]


def test_what_was_seen_stays_while_the_server_is_gone(server: Server, reader: Reader) -> None:
    before = reader.read()
    server.error = grpc.StatusCode.UNAVAILABLE
    server.now += 7
    seen = reader.read()
    assert (seen.status, seen.adapters) == (before.status, before.adapters)
    assert (seen.error, seen.silent_s) == ("gone", 7)
    server.error = grpc.StatusCode.OK
    seen = reader.read()
    assert (seen.error, seen.status.load.steps) == ("", 2)


@pytest.mark.parametrize(
    ("code", "answers_first"),
    [
        (grpc.StatusCode.UNAVAILABLE, False),
        (grpc.StatusCode.PERMISSION_DENIED, True),
        (grpc.StatusCode.UNIMPLEMENTED, True),
    ],
    ids=["never there", "token gone", "another server"],
)
def test_what_asking_again_does_not_change_is_raised(
    server: Server, reader: Reader, code: grpc.StatusCode, answers_first: bool
) -> None:
    if answers_first:
        reader.read()
    server.error = code
    with pytest.raises(CallError):
        reader.read()
