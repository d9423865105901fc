"""Many more calls than a server has places for: they succeed after the pushback, over one
connection, and nobody storms."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from loramux_client import AsyncClient

from lora_runtime.engine import inbox
from lora_runtime.scheduling import limits
from server.lifecycle.connections import connections
from server.operations.submission import Submission

from ..support.engines import HangingSteps
from ..support.servers import make_settings, running

CALLS, RUNNING, WAITING = 40, 8, 4
PUSHBACK_S = 0.5
MOST_TRIES = 5


async def test_calls_succeed_after_the_pushback(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for refusing in (inbox, limits):
        monkeypatch.setattr(refusing, "RETRY_AFTER_S", PUSHBACK_S)
    tries: dict[str, list[float]] = defaultdict(list)
    submit = Submission.submit

    def note(self: Submission, request: Any, *rest: Any) -> Any:
        tries[request.request_id].append(time.monotonic())
        return submit(self, request, *rest)

    monkeypatch.setattr(Submission, "submit", note)

    async def call(client: AsyncClient, index: int) -> str:
        fields: dict[str, Any] = {"prompt": "hi", "max_new_tokens": 4, "ignore_eos": True}
        fields["request_id"] = f"call-{index}"
        if index % 2:
            return (await client.generate(**fields)).text
        return "".join([event.text async for event in client.stream(**fields)])

    settings = make_settings(tiny_base, max_running=RUNNING, max_waiting=WAITING)
    async with running(settings) as served, AsyncClient(served.target) as client:
        steps = HangingSteps(served.app.engine)
        calls = asyncio.gather(*(call(client, index) for index in range(CALLS)))
        while len(tries) < CALLS:
            await asyncio.sleep(0.01)
        steps.open.set()  # all have come, and most were refused
        assert len(set(await calls)) == 1
        with connections(served.app.port) as found:
            assert len(found) == 1

    again = [times for times in tries.values() if len(times) > 1]
    assert len(again) >= CALLS - RUNNING - WAITING
    assert max(map(len, again)) <= MOST_TRIES
    gaps = [later - earlier for times in again for earlier, later in pairwise(times)]
    # A model has half of the places that wait; it is told of that, or of a full queue.
    assert min(gaps) > 0.9 * PUSHBACK_S, "nobody comes back before its time"
    assert max(gaps) - min(gaps) > 0.2 * PUSHBACK_S, "nor do all at once"
