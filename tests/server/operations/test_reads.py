"""Reports of one caller wait for one another, and for nobody else's."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from loramux.v1 import adapters_pb2, server_pb2

from ...support.servers import make_settings, running
from ...support.tokens import bearer, write_tokens


async def test_a_caller_s_reports_leave_threads_to_others(
    tiny_base: Path, tiny_adapters: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = write_tokens(
        tmp_path / "tokens.yaml", one={"adapters": ["*"]}, two={"adapters": ["*"]}
    )
    settings = make_settings(tiny_base, {"a0": tiny_adapters["a0"]}, auth_file=tokens)
    async with running(settings) as served:
        info, go_on, begun = served.app.engine.info, threading.Event(), threading.Semaphore(0)

        def slow() -> Any:
            begun.release()
            assert go_on.wait(30)
            return info()

        monkeypatch.setattr(served.app.engine, "info", slow)
        ask = server_pb2.GetServerInfoRequest()
        asking = [
            asyncio.ensure_future(served.server.GetServerInfo(ask, metadata=bearer("one")))
            for _ in range(8)
        ]
        try:
            for _ in range(2):
                assert await asyncio.to_thread(begun.acquire, timeout=30)
            get = adapters_pb2.GetAdapterRequest(adapter_id="a0")
            async with asyncio.timeout(30):
                found = await served.adapters.GetAdapter(get, metadata=bearer("two"))
            assert found.adapter_id == "a0"
            assert not begun.acquire(blocking=False)
        finally:
            go_on.set()
            await asyncio.gather(*asking)
