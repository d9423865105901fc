"""A process that attacks: it takes names of the functions here and their arguments, and gives what they return.

It is niced: what is measured is the server, not who has the core. Values are plain: the other side has no
classes of this file.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from .posts import Outcome, leave_posts_unread, post, repeat_get


def channel(target: str, **options: int) -> grpc.Channel:
    """A connection of its own that takes messages of any length."""
    own = {
        "grpc.use_local_subchannel_pool": 1,
        "grpc.max_send_message_length": -1,
        "grpc.max_receive_message_length": -1,
    }
    return grpc.insecure_channel(target, [*own.items(), *((k, v) for k, v in options.items())])


def _metadata(token: str) -> Any:
    return (("authorization", f"Bearer {token}"),) if token else ()


def send(
    target: str,
    method: str,
    requests: Sequence[bytes],
    token: str = "",
    timeout: float = 60,
    gzip: bool = False,
    cancel_after: float | None = None,
    keep: bool = False,
) -> list[Outcome]:
    """Send all at once, wait for every end. `keep`: with the bytes of the answers."""
    compression = grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression
    metadata = _metadata(token)
    with channel(target) as opened:
        streams = method.endswith("Stream")
        begin: Any = opened.unary_stream(method) if streams else opened.unary_unary(method).future
        began = time.monotonic()
        calls = [
            begin(request, timeout=timeout, metadata=metadata, compression=compression)
            for request in requests
        ]
        if cancel_after is not None:
            time.sleep(cancel_after)
            for one in calls:
                one.cancel()
        return [_outcome(one, streams, began, keep) for one in calls]


def _outcome(call: Any, streams: bool, began: float, keep: bool) -> Outcome:
    messages: list[bytes] = []
    try:
        for message in call if streams else [call.result()]:
            messages.append(message if keep else b"")
        return "OK", "", "", time.monotonic() - began, messages
    except grpc.FutureCancelledError:
        return "CANCELLED", "", "", time.monotonic() - began, messages
    except grpc.RpcError as error:
        trailers: Any = error.trailing_metadata() or ()
        reason = dict(trailers).get("loramux-reason", "")
        text = (error.details() or "")[:300]
        return error.code().name, reason, text, time.monotonic() - began, messages


def repeat(
    target: str, method: str, request: bytes, token: str, seconds: float, threads: int = 4
) -> dict[str, int]:
    """Call again and again, one call at a time on each of `threads` connections; outcomes by code."""
    end = time.monotonic() + seconds

    def run(_: int) -> Counter[str]:
        counts: Counter[str] = Counter()
        while time.monotonic() < end:
            counts[send(target, method, [request], token)[0][0]] += 1
        return counts

    with ThreadPoolExecutor(threads) as pool:
        return dict(sum(pool.map(run, range(threads)), Counter()))


def leave_unread(
    target: str, method: str, request: bytes, token: str, streams: int, seconds: float
) -> int:
    """Open streams and read their first message only; the number of those that gave one."""
    options = {"grpc.http2.lookahead_bytes": 1024}
    opened = [channel(target, **options) for _ in range(streams)]
    begun = 0
    try:
        begin: list[Any] = [one.unary_stream(method) for one in opened]
        calls = [one(request, metadata=_metadata(token)) for one in begin]
        for call in calls:
            try:
                next(call)
                begun += 1
            except grpc.RpcError:
                continue
        time.sleep(seconds)
        for call in calls:
            call.cancel()
    finally:
        for one in opened:
            one.close()
    return begun


WORK: dict[str, Any] = {
    f.__name__: f for f in (send, repeat, leave_unread, post, repeat_get, leave_posts_unread)
}
"""What may be asked for."""


def main() -> None:
    os.nice(10)
    while True:
        try:
            name, args, more = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = True, WORK[name](*args, **more)
        except Exception as error:
            answer = False, f"{type(error).__name__}: {error}"
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
