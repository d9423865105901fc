"""Wake-ups of several event loops, some of which have ended."""

from __future__ import annotations

import asyncio

from lora_runtime.requests.wakeups import Wakeups


async def test_a_loop_that_is_closed_leaves_others_their_wake_ups() -> None:
    closed = asyncio.new_event_loop()
    closed.close()
    wakeups, events, nobodys = Wakeups(), [asyncio.Event(), asyncio.Event()], asyncio.Event()
    wakeups.add(closed, nobodys)
    for event in events:
        wakeups.add(asyncio.get_running_loop(), event)
    wakeups.send()
    async with asyncio.timeout(30):
        for event in events:
            await event.wait()
    assert not nobodys.is_set()
