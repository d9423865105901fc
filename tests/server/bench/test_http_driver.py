"""HTTP answers that a server of ours does not give, from a socket that says what a test tells it."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from server.bench.call import Ask, BenchError, Call
from server.bench.draws.prompts import Prompt
from server.bench.http_driver import HttpDriver

from ...support.certificates import Authority
from .conftest import Bench, report_of

STREAM, UNARY = (Ask(8, True, stream, 30, False) for stream in (True, False))


@asynccontextmanager
async def saying(
    head: str,
    body: str,
    asked: list[str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """A server with one answer, and its URL."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        text = await reader.readuntil(b"\r\n\r\n")
        _, _, length = text.lower().partition(b"content-length:")
        text += await reader.readexactly(int(length.split()[0]) if length else 0)
        if asked is not None:
            asked.append(text.decode())
        writer.write(f"HTTP/1.1 {head}\r\nconnection: close\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"{'https' if tls else 'http'}://localhost:{port}"


async def called(head: str, body: str, ask: Ask = STREAM) -> Call:
    call = Call("a", 0.0, 0.0)
    async with saying(head, body) as url, HttpDriver(url, ask) as driver:
        await driver.make(call, Prompt("x"))
    return call


def events(*values: Any, done: bool = True) -> str:
    texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
    return "".join(f"data: {text}\n\n" for text in [*texts, *(["[DONE]"] if done else [])])


def chunk(text: str, completion: int | None = None) -> dict[str, Any]:
    usage = {"prompt_tokens": 5, "completion_tokens": completion}
    return {"choices": [{"text": text}]} | ({} if completion is None else {"usage": usage})


END = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 4}}


@pytest.mark.parametrize(
    "chunks",
    [
        (chunk("a", 1), chunk("b", 3), chunk("", 4)),
        (chunk("a"), chunk("b"), chunk("c"), chunk("d")),
        (": a comment", chunk("a"), chunk("bcd")),
    ],
    ids=["counts in each", "a text a token", "several tokens a text"],
)
async def test_tokens_of_servers_that_count_and_of_those_that_do_not(chunks: Any) -> None:
    text = events(*chunks, END).replace("data: :", ":")
    call = await called("200 OK", text)
    assert (call.status, call.tokens, call.prompt_tokens) == ("OK", 4, 5)
    assert call.first is not None


@pytest.mark.parametrize(
    ("head", "body", "status", "message"),
    [
        ("429 Busy", '{"error": {"message": "later"}}', "HTTP 429", "later"),
        ("502 Bad", "<html>gateway</html>", "HTTP 502", "<html>gateway</html>"),
        ("200 OK", events(chunk("a"), done=False), "BROKEN", "without [DONE]"),
        ("200 OK", events("{"), "BROKEN", "not as it should be"),
        ("200 OK", events([1]), "BROKEN", "not as it should be"),
        ("200 OK", events("[" * 200_000), "BROKEN", "RecursionError"),
        ("200 OK", events(chunk("a", 1), chunk("b", 10**30)), "BROKEN", "OverflowError"),
        (
            "200 OK",
            events(chunk("a", 1), {"error": {"code": "internal", "message": "oh"}}, done=False),
            "STREAM internal",
            "oh",
        ),
    ],
    ids=["refused", "proxy", "cut", "no json", "list", "deep", "a number", "failed"],
)
async def test_streams_that_fail(head: str, body: str, status: str, message: str) -> None:
    call = await called(head, body)
    assert (call.status, message in call.message) == (status, True)


async def test_unary_answers_that_are_none() -> None:
    assert (await called("200 OK", "[]", UNARY)).status == "BROKEN"
    assert (await called("200 OK", '{"usage": null}', UNARY)).status == "BROKEN"
    usage = '{"usage": {"completion_tokens": "x", "prompt_tokens": 1}}'
    assert (await called("200 OK", usage, UNARY)).status == "BROKEN"


async def test_a_server_that_takes_connections_and_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.bench.http_driver.CONNECT_TIMEOUT_S", 0.05)

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with HttpDriver(url, UNARY) as driver:
            with pytest.raises(BenchError, match="TimeoutError"):
                await driver.connect()


async def test_the_token_and_the_salt_are_sent() -> None:
    asked: list[str] = []
    ask = Ask(8, False, False, 30, True)
    async with saying("500 Oh", "", asked) as url:
        for _ in range(2):  # two runs of the command have no salt in common either
            async with HttpDriver(url, ask, "lmx_1") as driver:
                await driver.make(Call("a", 0.0, 0.0), Prompt("x").as_chat())
    assert all("Bearer lmx_1" in text and "POST /v1/chat/completions" in text for text in asked)
    bodies = [json.loads(text.partition("\r\n\r\n")[2]) for text in asked]
    assert bodies[0]["cache_salt"] != bodies[1]["cache_salt"]
    assert bodies[0]["model"] == "a"


async def test_https_by_the_authority_that_is_named(bench: Bench, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    pair = authority.issue("server")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.cert, pair.key)
    answer = json.dumps({"usage": {"prompt_tokens": 1, "completion_tokens": 2}})
    asked: list[str] = []
    async with saying("200 OK", answer, asked, tls) as url:
        load = ("-n", "1", "--unary", "--http", f"{url}/v1/")
        result = await bench(*load, "--ca", str(authority.cert), "--json")
        assert report_of(result)["total"]["tokens"] == 2
        assert asked[-1].startswith("POST /v1/completions ")
        refused = await bench(*load, code=1)
        assert "certificate" in refused.stderr.lower()


async def test_a_servers_words_do_not_move_the_cursor(bench: Bench) -> None:
    error = {"error": {"message": "\x1b[2Jgone\nand away"}}
    async with saying("500 Oh", json.dumps(error)) as url:
        result = await bench("--http", url, "-n", "1", code=1)
    assert "gone and away" in result.output
    assert "\x1b" not in result.output


@pytest.mark.parametrize("models", ["[" * 200_000, '{"data": ["a"]}'])
async def test_a_list_of_models_that_is_none(models: str) -> None:
    async with saying("200 OK", models) as url, HttpDriver(url, STREAM) as driver:
        with pytest.raises(BenchError):
            await driver.adapters()
