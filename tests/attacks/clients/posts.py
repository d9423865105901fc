"""Requests over HTTP, as a process that attacks sends them."""

from __future__ import annotations

import asyncio
import gzip as gzips
import json
import socket
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import aiohttp

CODES = {
    200: "OK",
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""Statuses by gRPC's names: attacks say what they expect once."""
Outcome = tuple[str, str, str, float, list[bytes]]
"""Code, reason, details, seconds, and the answers if they are kept."""


def post(
    target: str,
    posts: Sequence[tuple[str, bytes]],
    token: str = "",
    timeout: float = 60,
    gzip: bool = False,
    cancel_after: float | None = None,
    keep: bool = False,
) -> list[Outcome]:
    """Send all at once, each on a connection of its own; what `send` gives of calls."""
    headers = {"content-type": "application/json", **_authorization(token)}
    if gzip:
        posts = [(path, gzips.compress(body, 1)) for path, body in posts]
        headers["content-encoding"] = "gzip"

    async def run() -> list[Outcome]:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        limit = aiohttp.ClientTimeout(total=timeout)
        async with aiohttp.ClientSession(
            f"http://{target}", connector=connector, headers=headers, timeout=limit
        ) as session:
            tasks = [asyncio.create_task(_post(session, *one, keep)) for one in posts]
            if cancel_after is not None:
                await asyncio.sleep(cancel_after)
                for task in tasks:
                    task.cancel()
            return [await task for task in tasks]

    return asyncio.run(run())


async def _post(session: aiohttp.ClientSession, path: str, body: bytes, keep: bool) -> Outcome:
    began = time.monotonic()
    messages: list[bytes] = []
    code, reason, details = "", "", ""
    try:
        async with session.post(path, data=body) as answer:
            code = CODES.get(answer.status, str(answer.status))
            if answer.content_type == "text/event-stream":
                async for line in answer.content:
                    if line.startswith(b"data: "):
                        messages.append(line[6:])
            else:
                messages.append(await answer.read())
        code, details = _failure(code, messages)
    except asyncio.CancelledError:
        code = "CANCELLED"
    except TimeoutError:
        code = "DEADLINE_EXCEEDED"
    except (aiohttp.ClientError, OSError) as error:
        code, details = "CLOSED", repr(error)[:200]
    return code, reason, details, time.monotonic() - began, messages if keep else []


def _failure(code: str, messages: list[bytes]) -> tuple[str, str]:
    """The code of an answer, or of the error that ends a stream, and what it says."""
    ends = [m for m in messages if m.strip() != b"[DONE]"][-1:]
    if not ends or b'"error"' not in ends[0][:2000]:
        return code, "" if code == "OK" else "no error"
    with suppress(ValueError, KeyError, TypeError):
        error = json.loads(ends[0])["error"]
        if code == "OK":  # it had begun
            code = CODES.get(error["code"], str(error["code"]))
        return code, str(error["message"])[:300]
    return code, repr(ends[0][:200])


def repeat_get(
    target: str, path: str, token: str, seconds: float, connections: int = 4
) -> dict[str, int]:
    """Ask for a page again and again on some connections that are kept; outcomes by code."""
    end = time.monotonic() + seconds
    counts: Counter[str] = Counter()

    async def ask(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < end:
            async with session.get(path) as answer:
                await answer.read()
                counts[CODES.get(answer.status, str(answer.status))] += 1

    async def run() -> None:
        async with aiohttp.ClientSession(
            f"http://{target}", headers=_authorization(token)
        ) as session:
            await asyncio.gather(*(ask(session) for _ in range(connections)))

    asyncio.run(run())
    return dict(counts)


def leave_posts_unread(
    target: str, post: tuple[str, bytes], token: str, streams: int, seconds: float
) -> int:
    """Open streams and read their first bytes only; the number of those that gave some."""
    path, body = post
    headers: dict[str, Any] = {"host": target, "content-length": len(body), **_authorization(token)}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    said = f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body
    host, _, port = target.rpartition(":")
    opened = [_connection(host, int(port)) for _ in range(streams)]
    begun = 0
    try:
        for one in opened:
            one.sendall(said)
        for one in opened:
            begun += one.recv(64).startswith(b"HTTP/1.1 200")
        time.sleep(seconds)
    finally:
        for one in opened:
            one.close()
    return begun


def _connection(host: str, port: int) -> socket.socket:
    """One with little room for what is not read."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.settimeout(20)
    one.connect((host, port))
    return one


def _authorization(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}
