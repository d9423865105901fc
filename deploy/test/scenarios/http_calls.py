"""Calls a server over HTTP at a steady rate until SIGINT, trying nothing again, and prints how the calls
ended as JSON, in ghz's form. Runs in the client's pod.

    python http_calls.py https://HOST:8000 TOKEN CALLS_PER_SECOND ADAPTER...
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import ssl
import sys
from collections import Counter

import httpx

TOKENS = 8


async def main() -> None:
    url, token, rate, *adapters = sys.argv[1:]
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    statuses: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    headers = {"authorization": f"Bearer {token}"}
    trusted = ssl.create_default_context(cafile="/tmp/ca.pem")
    limits = httpx.Limits(keepalive_expiry=5)  # the server keeps an idle connection for longer
    async with (
        httpx.AsyncClient(
            base_url=url, headers=headers, verify=trusted, timeout=120, limits=limits
        ) as client,
        asyncio.TaskGroup() as calls,
    ):
        while not stop.is_set():
            adapter = random.choice(adapters)
            calls.create_task(count(client, adapter, statuses, errors))
            await asyncio.sleep(1 / float(rate))
    print(json.dumps({"statusCodeDistribution": statuses, "errorDistribution": errors}))


async def count(
    client: httpx.AsyncClient, adapter: str, statuses: Counter[str], errors: Counter[str]
) -> None:
    status, error = await call(client, adapter)
    statuses[status] += 1
    if error:
        errors[error] += 1


async def call(client: httpx.AsyncClient, adapter: str) -> tuple[str, str]:
    """The status in gRPC's word, and what is wrong."""
    body = {"model": adapter, "prompt": "hello", "max_tokens": TOKENS, "ignore_eos": True}
    try:
        answer = await client.post("/v1/completions", json=body)
    except httpx.HTTPError as error:
        return "Unavailable", f"{type(error).__name__}: {error}"
    if answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == TOKENS:
        return "OK", ""
    status = "Unavailable" if answer.status_code == 503 else f"HTTP {answer.status_code}"
    return status, f"HTTP {answer.status_code}: {answer.text[:200]}"


if __name__ == "__main__":
    asyncio.run(main())
