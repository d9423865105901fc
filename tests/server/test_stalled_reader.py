"""A client that does not read its stream for a while: it gets all of it, in fewer messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
import pytest
from loramux.v1 import inference_pb2 as pb
from loramux.v1 import inference_pb2_grpc

from ..support.servers import Harness

TOKENS = 250
FIELDS: dict[str, Any] = {
    "prompt": "hello", "adapter_id": "a1", "max_new_tokens": TOKENS, "ignore_eos": True, "n": 4,
    "temperature": 1, "seed": 7, "logprobs": 20,
}  # fmt: skip


def unzipped(found: Iterable[pb.TokenLogprob]) -> tuple[list[int], list[float]]:
    """Tokens and their logprobs, each followed by its alternatives'."""
    entries = [entry for one in found for entry in (one, *one.top)]
    return [entry.token_id for entry in entries], [entry.logprob for entry in entries]


async def test_a_reader_that_stalls_gets_everything_in_order(served: Harness) -> None:
    whole = await served.generate(**FIELDS)
    # Without measuring the connection, gRPC takes no more in advance than 64 KiB.
    options = [("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(served.target, options=options) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        stream = aiter(stub.GenerateStream(pb.GenerateRequest(**FIELDS)))
        first = await anext(stream)
        await served.idle_stats()
        events = [first, *[event async for event in stream]]
    assert len(events) < 4 * TOKENS
    assert [len(e.adapters) for e in events] == [1] + [0] * (len(events) - 1)
    for choice in whole.choices:
        own = [e for e in events if e.index == choice.index]
        assert max(len(e.token_ids) for e in own) > 1
        assert [t for e in own for t in e.token_ids] == choice.token_ids
        assert "".join(e.text for e in own) == choice.text
        tokens, values = unzipped(p for e in own for p in e.logprobs)
        expected, expected_values = unzipped(choice.logprobs)
        assert tokens == expected
        assert values == pytest.approx(expected_values, abs=1e-4)
        ends = [(bool(e.finish_reason), e.HasField("usage"), e.HasField("timings")) for e in own]
        assert ends == [(False,) * 3] * (len(own) - 1) + [(True,) * 3]
        assert (own[-1].finish_reason, own[-1].usage) == (choice.finish_reason, choice.usage)
