"""Calls a server over HTTP as many at once, with a client that tries nothing again, and prints how
the calls ended as JSON, in ghz's form.

    python deploy/test/http_load.py --client httpx --tokens 60 --stream -c 16 -z 18 \
        --address 127.0.0.11 --address 127.0.0.12 --port 8000

All addresses are those of one name, as a DNS gives them: each look-up begins with another one, and a
client that cannot connect goes on to the next. A stream is OK when all its tokens and its end came.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

NAME = "loramux.test"
TIMEOUT_S = 120
Call = Callable[[], Awaitable[int]]
"""One call: how many tokens came."""


def main() -> None:
    args = arguments()
    answer_name(args.address)
    print(json.dumps({"statusCodeDistribution": asyncio.run(load(args))}))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--client", choices=list(CLIENTS), default="httpx")
    parser.add_argument("--address", action="append", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default="a")
    parser.add_argument("--tokens", type=int, default=4)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("-c", dest="at_once", type=int, default=16, help="calls at once")
    parser.add_argument("-n", dest="count", type=int, help="calls in all")
    parser.add_argument(
        "-z", dest="time", default="0s", help="how long calls begin, such as 10s; or -n"
    )
    parser.add_argument(
        "--pause", type=float, default=0, help="most seconds that a caller waits between two calls"
    )
    return parser.parse_args()


def answer_name(addresses: list[str]) -> None:
    """Let NAME have these addresses in this process, in another order at each look-up."""
    turns, resolve = itertools.count(random.randrange(len(addresses))), socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in (NAME, NAME.encode()):
            return resolve(host, port, *args, **kwargs)
        first = next(turns) % len(addresses)
        ordered = addresses[first:] + addresses[:first]
        kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*kind, (address, int(port or 0))) for address in ordered]

    socket.getaddrinfo = getaddrinfo


async def load(args: argparse.Namespace) -> dict[str, int]:
    """Calls by how they ended: OK, or what the client says."""
    ends, begun, until = (
        Counter[str](),
        itertools.count(1),
        time.monotonic() + float(args.time.rstrip("s")),
    )

    def goes_on() -> bool:
        return next(begun) <= args.count if args.count else time.monotonic() < until

    async def caller(call: Call) -> None:
        while goes_on():
            ends[await end_of(call, args.tokens)] += 1
            if args.pause:
                await asyncio.sleep(random.uniform(0, args.pause))

    async with CLIENTS[args.client](args) as call:
        await asyncio.gather(*(caller(call) for _ in range(args.at_once)))
    return dict(ends)


async def end_of(call: Call, tokens: int) -> str:
    try:
        came = await call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
    return "OK" if came == tokens else f"{came} of {tokens} tokens"


def body(args: argparse.Namespace) -> dict[str, Any]:
    asked = {"model": args.model, "prompt": "hi", "max_tokens": args.tokens, "ignore_eos": True}
    usage = {"stream_options": {"include_usage": True}} if args.stream else {}
    return asked | {"stream": args.stream} | usage


def tokens_of(lines: list[str]) -> int:
    """Tokens of a whole stream. Raises RuntimeError for one that is cut or ends with an error."""
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    if not events or events[-1] != "[DONE]":
        raise RuntimeError(f"the stream ends with {(events or ['nothing'])[-1]}")
    return int(json.loads(events[-2])["usage"]["completion_tokens"])


@asynccontextmanager
async def with_httpx(args: argparse.Namespace) -> AsyncIterator[Call]:
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=args.at_once)
    async with httpx.AsyncClient(limits=limits, timeout=TIMEOUT_S, trust_env=False) as client:
        url, sent = f"http://{NAME}:{args.port}/v1/completions", body(args)

        async def call() -> int:
            if not args.stream:
                answer = await client.post(url, json=sent)
                answer.raise_for_status()
                return int(answer.json()["usage"]["completion_tokens"])
            async with client.stream("POST", url, json=sent) as answer:
                answer.raise_for_status()
                return tokens_of([line async for line in answer.aiter_lines()])

        yield call


@asynccontextmanager
async def with_aiohttp(args: argparse.Namespace) -> AsyncIterator[Call]:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=0, use_dns_cache=False)
    timeout = aiohttp.ClientTimeout(TIMEOUT_S)
    # aiohttp tries GET again, and POST never.
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        url, sent = f"http://{NAME}:{args.port}/v1/completions", body(args)

        async def call() -> int:
            async with session.post(url, json=sent) as answer:
                answer.raise_for_status()
                if args.stream:
                    return tokens_of([line.decode().strip() async for line in answer.content])
                return int((await answer.json())["usage"]["completion_tokens"])

        yield call


@asynccontextmanager
async def with_openai(args: argparse.Namespace) -> AsyncIterator[Call]:
    import openai

    url = f"http://{NAME}:{args.port}/v1"
    sent = body(args)
    sent["extra_body"] = {"ignore_eos": sent.pop("ignore_eos")}
    async with openai.AsyncOpenAI(
        base_url=url, api_key="none", max_retries=0, timeout=TIMEOUT_S
    ) as client:

        async def call() -> int:
            answer = await client.completions.create(**sent)
            if not args.stream:
                return int(answer.usage.completion_tokens)
            usage = None
            async for chunk in answer:
                usage = chunk.usage or usage
            if usage is None:
                raise RuntimeError("the stream ends without usage")
            return int(usage.completion_tokens)

        yield call


CLIENTS = {"httpx": with_httpx, "aiohttp": with_aiohttp, "openai": with_openai}

if __name__ == "__main__":
    main()
