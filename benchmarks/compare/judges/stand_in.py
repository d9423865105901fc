"""A server that waits instead of computing: each answer's time is known beforehand.

    python -m benchmarks.compare.judges.stand_in --first-ms 80 --gap-ms 10

The first token comes after `--first-ms`, each other `--gap-ms` after the one before, whatever else
the server does. It prints its port, and ends with its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
from loramux.v1 import inference_pb2 as pb
from loramux.v1 import inference_pb2_grpc

_PROMPT_TOKENS = 4


class StandIn(inference_pb2_grpc.InferenceServicer):
    """Service of inference whose tokens come by the clock."""

    def __init__(self, first_s: float, gap_s: float) -> None:
        self._first_s, self._gap_s = first_s, gap_s

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        count = request.max_new_tokens
        await asyncio.sleep(self._first_s + (count - 1) * self._gap_s)
        choice = pb.Choice(token_ids=range(count), text="a" * count, usage=_usage(count))
        choice.finish_reason = pb.FINISH_REASON_LENGTH
        return pb.GenerateResponse(
            adapter_id=request.adapter_id, choices=[choice], text=choice.text
        )

    async def GenerateStream(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        clock, count = asyncio.get_running_loop().time, request.max_new_tokens
        due = clock() + self._first_s
        for token in range(count):
            await asyncio.sleep(due - clock())
            due += self._gap_s
            message = pb.GenerateStreamResponse(
                adapter_id=request.adapter_id, text="a", token_ids=[token]
            )
            if token == count - 1:
                message.finish_reason = pb.FINISH_REASON_LENGTH
                message.usage.CopyFrom(_usage(count))
            yield message


def _usage(count: int) -> pb.Usage:
    return pb.Usage(prompt_tokens=_PROMPT_TOKENS, completion_tokens=count)


async def serve(first_s: float, gap_s: float) -> None:
    server = grpc.aio.server()
    inference_pb2_grpc.add_InferenceServicer_to_server(StandIn(first_s, gap_s), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare.judges.stand_in",
        description=(__doc__ or "").partition("\n\n")[0],
    )
    parser.add_argument("--first-ms", type=float, default=0)
    parser.add_argument("--gap-ms", type=float, default=0)
    args = parser.parse_args()
    asyncio.run(serve(args.first_ms / 1000, args.gap_ms / 1000))


if __name__ == "__main__":
    main()
