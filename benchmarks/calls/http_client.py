"""Client of completions over HTTP that does little but send and read: bytes on sockets that stay open.

python -m benchmarks.calls.http_client PORT CALLS CONCURRENCY BODY...
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import Counter
from itertools import count

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


async def main(port: int, calls: int, concurrency: int, bodies: list[str]) -> None:
    """Send the calls, and print what ghz would of them."""
    numbers, seen = count(), Counter[str]()
    requests = [_request(body) for body in bodies]

    async def caller() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (number := next(numbers)) < calls:
            writer.write(requests[number % len(requests)])
            seen[await _status(reader)] += 1
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    rps = calls / (time.perf_counter() - started)
    print(json.dumps({"rps": rps, "statusCodeDistribution": seen}))


def _request(body: str) -> bytes:
    data = body.encode()
    head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


async def _status(reader: asyncio.StreamReader) -> str:
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head)
    assert length is not None, head
    await reader.readexactly(int(length[1]))
    status = head.split(b" ", 2)[1].decode()
    return "OK" if status == "200" else status


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:4]), sys.argv[4:]))
