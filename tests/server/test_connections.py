"""Connections as the kernel has them: found by port, told apart by client, closed one by one."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from server.lifecycle.connections import (
    address_of,
    close,
    connections,
    silent_s,
    stop_listening,
    turn_away,
    unread_bytes,
)

PEERS: list[str] = []


@asynccontextmanager
async def echo(host: str) -> AsyncIterator[int]:
    """A server that notes who calls; its port."""

    async def answer(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        PEERS.append(context.peer())
        return request

    server = grpc.aio.server()
    handlers: dict[str, Any] = {"Echo": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", handlers),))
    port = server.add_insecure_port(f"{host}:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def call(channel: grpc.aio.Channel) -> Any:
    echoed: Any = channel.unary_unary("/t.T/Echo")
    return await echoed(b"x")


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("[::1]", "[::1]"),
        ("[::]", "127.0.0.1"),
        ("[::]", "[::1]"),
    ],
)
async def test_a_calls_peer_names_its_connection(host: str, target: str) -> None:
    async with echo(host) as port, grpc.aio.insecure_channel(f"{target}:{port}") as channel:
        await call(channel)
        with connections(port) as found:
            assert list(found) == [address_of(PEERS[-1])]
            assert 0 <= silent_s(found[next(iter(found))]) < 60
        with connections(port + 1 if port < 65535 else 1) as others:
            assert not others


async def test_listening_ends_and_connections_stand() -> None:
    async with echo("127.0.0.1") as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await call(channel)
        stop_listening(port)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        assert await call(channel) == b"x"
        # The port is free for who comes next, although connections are left.
        with socket.socket() as following:
            following.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            following.bind(("127.0.0.1", port))
            following.listen()


async def test_one_connection_is_closed_and_others_are_not() -> None:
    async with (
        echo("127.0.0.1") as port,
        grpc.aio.insecure_channel(
            f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]
        ) as a,
        grpc.aio.insecure_channel(
            f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]
        ) as b,
    ):
        await call(a)
        await call(b)
        of_b = address_of(PEERS[-1])
        with connections(port) as found:
            assert len(found) == 2
            assert of_b is not None
            close(found[of_b])
            close(found[of_b])  # harmless
        while of_b in open_to(port):
            await asyncio.sleep(0.01)
        assert len(open_to(port)) == 1
        stop_listening(port)
        assert await call(a) == b"x"


def open_to(port: int) -> list[Any]:
    with connections(port) as found:
        return list(found)


@pytest.mark.parametrize("peer", ["", "unix:", "unix:/tmp/x", "ipv4:nonsense", "ipv4:1.2.3.4:x"])
def test_peers_without_an_address(peer: str) -> None:
    assert address_of(peer) is None


async def test_who_is_on_the_way_still_connects() -> None:
    accepted: list[int] = []
    came = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer.get_extra_info("peername")[1])
        came.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)) as early:  # nobody has accepted it yet
        turn_away(port)
        with socket.socket() as late:
            late.setblocking(False)
            assert late.connect_ex(("127.0.0.1", port)) == errno.EINPROGRESS
            await came.wait()
            assert accepted == [early.getsockname()[1]]
            server.close()
            # Not reset: it has never been let in, and tries again.
            assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_bytes_that_nobody_has_read_are_counted() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert unread_bytes(one.fileno()) == 0
        other.send(b"abc")
        assert unread_bytes(one.fileno()) == 3
