"""Connections that come all at once: how many of them one turn of the event loop takes."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from itertools import pairwise

from ..conftest import MakeFront


async def test_a_turn_of_the_event_loop_takes_a_few(make_front: MakeFront) -> None:
    async with make_front() as front:
        with ExitStack() as opened:
            for _ in range(100):  # all wait in the kernel: the event loop is held meanwhile
                address = ("127.0.0.1", front.server.port)
                opened.enter_context(socket.create_connection(address, timeout=5))
            taken = [0]
            while taken[-1] < 100:
                await asyncio.sleep(0)
                taken.append(front.server.open_connections)
            steps = [after - before for before, after in pairwise(taken)]
        assert max(steps) <= 16


async def test_small_answers_are_sent_at_once(make_front: MakeFront) -> None:
    """Not when their client has acknowledged what was sent before."""
    async with make_front() as front:
        address = ("127.0.0.1", front.server.port)
        with socket.create_connection(address, timeout=5):
            while not front.server.connections:
                await asyncio.sleep(0)
            (connection,) = front.server.connections
            taken = connection.transport.get_extra_info("socket")
            assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
