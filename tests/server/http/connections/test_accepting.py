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
