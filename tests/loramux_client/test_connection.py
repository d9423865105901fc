"""One connection: kept, renewed, and found again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from loramux_client import AsyncClient, CallError, Client

from server.tls import server_credentials

from ..support.certificates import Authority
from ..support.servers import free_port
from ..support.stand_in import standing_in

Code = grpc.StatusCode


async def test_all_calls_have_one_connection() -> None:
    async with standing_in() as server:

        def use(client: Client) -> None:
            client.generate(prompt="hi")
            list(client.stream(prompt="hi"))

        async with AsyncClient(server.target) as client:
            await asyncio.gather(*(client.generate(prompt="hi") for _ in range(50)))
        assert len({call.peer for call in server.asked}) == 1
        server.asked.clear()
        with Client(server.target) as shared:
            await asyncio.gather(*(asyncio.to_thread(use, shared) for _ in range(20)))
        assert len({call.peer for call in server.asked}) == 1


async def test_a_server_that_comes_back_is_found() -> None:
    port = free_port()
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        async with standing_in(port):
            assert (await client.generate(prompt="hi")).text == "xxx"
        with pytest.raises(CallError) as caught:
            await client.generate(prompt="hi", timeout_s=0.5)
        assert caught.value.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)
        async with standing_in(port):
            assert (await client.generate(prompt="hi", timeout_s=60)).text == "xxx"


async def test_connections_that_end_by_age_fail_no_call() -> None:
    async with (
        standing_in(options=(("grpc.max_connection_age_ms", 100),)) as server,
        AsyncClient(server.target) as client,
    ):
        for _ in range(200):
            await client.generate(prompt="hi")
            assert [event async for event in client.stream(prompt="hi")]
            if len({call.peer for call in server.asked}) > 2:
                break
            await asyncio.sleep(0.01)
        assert len({call.peer for call in server.asked}) > 2


async def test_all_servers_of_a_name_have_calls() -> None:
    async with (
        standing_in() as one,
        standing_in() as other,
        AsyncClient(f"ipv4:{one.target},{other.target}") as client,
    ):
        async with asyncio.timeout(60):
            while not (one.asked and other.asked):
                await client.generate(prompt="hi")


async def test_tls(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "a", "a"), Authority(tmp_path / "b", "b")
    pair = authority.issue("server")
    mine, intruder = authority.issue("client"), stranger.issue("intruder")
    credentials = server_credentials(pair.cert, pair.key, authority.cert)
    async with standing_in(credentials=credentials) as server:

        async def ask(**options: str | Path | bool | None) -> str:
            async with AsyncClient(server.target, retry=False, **options) as client:  # type: ignore[arg-type]
                return (await client.server_info(timeout_s=30)).version

        assert await ask(ca=authority.cert, cert=mine.cert, key=mine.key) == "stand-in"
        assert await ask(ca=str(authority.cert), cert=mine.cert, key=mine.key) == "stand-in"
        for wrong in (
            {},
            {"tls": True},
            {"ca": authority.cert},
            {"ca": stranger.cert, "cert": mine.cert, "key": mine.key},
            {"ca": authority.cert, "cert": intruder.cert, "key": intruder.key},
        ):
            with pytest.raises(CallError) as caught:
                await ask(**wrong)
            assert caught.value.code is Code.UNAVAILABLE
        assert len(server.asked) == 2


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(CallError, match=r"no\.pem cannot be read: No such file") as caught:
            kind("127.0.0.1:1", ca=tmp_path / "no.pem")
        assert caught.value.code is None
        with pytest.raises(CallError, match="needed together"):
            kind("127.0.0.1:1", cert=tmp_path / "no.pem")
