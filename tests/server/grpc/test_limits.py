"""Limits of request messages: the bytes tell what is over, and it is not parsed."""

from __future__ import annotations

import math
from typing import Any

import grpc
import pytest
from google.protobuf import struct_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from loramux.v1 import adapters_pb2, inference_pb2

from lora_runtime import InvalidRequestError, RequestLimits
from server.grpc.limits import over_limit
from server.services.inference import to_request

from ...support.servers import Harness, detail, refused

LIMITS = RequestLimits(token_ids=1000)
GENERATE: Any = inference_pb2.GenerateRequest.DESCRIPTOR
MANY: dict[str, dict[str, Any]] = {
    "messages": {"messages": [{}] * 1025},
    "adapters": {"prompt": "x", "adapters": [{}] * 9},
    "tools": {"prompt": "x", "tools": ["{}"] * 129},
    "documents": {"prompt": "x", "documents": ["{}"] * 129},
    "stop": {"prompt": "x", "stop": [""] * 17},
    "stop_token_ids": {"prompt": "x", "stop_token_ids": [1] * 2570},
    "logit_bias": {"prompt": "x", "logit_bias": dict.fromkeys(range(1025), 1.0)},
    "structured": {"prompt": "x", "structured": {"choice": {"texts": ["a"] * 22_000}}},
    "token_ids": {"token_ids": [1] * 10_010},
}
BY_HAND = {
    # Not packed, in packs of none, in a group, with numbers longer than they need be.
    "token_ids": b"\x18\x05" * 1001,
    "stop_token_ids": b"\x7a\x00" * 257,
    "logit_bias": b"\xd2\x01\x00" * 1025,
    "structured": (b"\xe2\x01\x84\x20" + b"\x12\x81\x20" + b"x" * 4097) * 17,
    "messages": b"\xa3\x06" + b"\x22\x00" * 1025 + b"\xa4\x06",
    "adapters": b"\xa2\x81\x00\x00" * 9,
    "message": b"\xf8\x06\x05" * 257,
    "request_id": b"\x9a\x01\xff\xff\x7f" + b"x" * ((1 << 21) - 1),
}


@pytest.mark.parametrize("field", MANY)
def test_entries_are_counted_in_the_bytes(field: str) -> None:
    data = inference_pb2.GenerateRequest(**MANY[field]).SerializeToString()
    over = over_limit(data, GENERATE, LIMITS)
    assert over is not None
    assert (over.field, over.description.startswith("at most")) == (field, True)


@pytest.mark.parametrize("field", BY_HAND)
def test_every_way_to_write_them_is_counted(field: str) -> None:
    over = over_limit(BY_HAND[field], GENERATE, LIMITS)
    assert over is not None
    assert over.field == field


@pytest.mark.parametrize("data", [b"\x18\x05" * 10_000, b"\x1a\x00" * 10_000])
def test_ids_that_are_not_packed_are_counted_so_far(data: bytes) -> None:
    """A context of 100 000 tokens must not mean so many fields: each takes a microsecond."""
    over = over_limit(data, GENERATE, RequestLimits(token_ids=100_000))
    assert over is not None
    assert (over.field, "not packed" in over.description) == ("token_ids", True)
    assert over_limit(data[:16_000], GENERATE, RequestLimits(token_ids=100_000)) is None


def test_what_is_within_passes() -> None:
    request = inference_pb2.GenerateRequest(
        prompt="x" * 1_000_000,
        token_ids=[2**32 - 1] * 1000,
        messages=[{"role": "user", "content": "x" * 100_000}] * 20,
        stop=["x" * 1024] * 16,
        stop_token_ids=[2**32 - 1] * 256,
        logit_bias=dict.fromkeys(range(2**32 - 1024, 2**32), -0.1),
        adapters=[{"adapter_id": "a", "weight": 0.5}] * 8,
        structured={"choice": {"texts": ["x" * 1000] * 65}},
        seed=2**63 - 1,
        temperature=1,
    )
    assert over_limit(request.SerializeToString(), GENERATE, LIMITS) is None


@pytest.mark.parametrize("one", [b"\x0a\x00", b"\x18\x01", b"\x1b\x1c", b"\xfa\x06\x00"])
@pytest.mark.parametrize(("tag", "field"), [(b"\xa2\x01", "adapters"), (b"\xd2\x01", "logit_bias")])
def test_fields_of_an_entry_are_counted(tag: bytes, field: str, one: bytes) -> None:
    """The last of two million ids is the entry's; to parse them takes the event loop."""
    within, beyond = (tag + bytes([len(one) * n]) + one * n for n in (8, 17))
    assert over_limit(within, GENERATE, LIMITS) is None
    over = over_limit(within + beyond, GENERATE, LIMITS)
    assert over is not None
    assert (over.field, over.description) == (field, "an entry has over 16 fields")


@pytest.mark.parametrize(
    "turn",
    [
        b"\x0a\x00" * 8193,
        inference_pb2.ChatMessage(
            parts=[inference_pb2.ContentPart(type="text", text="x")] * 2731
        ).SerializeToString(),
        inference_pb2.ChatMessage(
            tool_calls=[inference_pb2.ToolCall(name="f", id="c")] * 2731
        ).SerializeToString(),
    ],
    ids=["roles", "parts", "calls"],
)
def test_fields_of_turns_are_counted_with_what_they_have_in_them(turn: bytes) -> None:
    within = inference_pb2.GenerateRequest()
    within.messages.add(parts=[inference_pb2.ContentPart(type="text", text="x")] * 1000)
    assert over_limit(within.SerializeToString(), GENERATE, LIMITS) is None
    data = b"\x22" + _varint(len(turn)) + turn
    over = over_limit(data, GENERATE, LIMITS)
    assert over is not None
    assert (over.field, over.description[:19]) == ("messages", "has too many values")


def _varint(number: int) -> bytes:
    return bytes([number & 127 | 128, number >> 7 & 127 | 128, number >> 14])


def test_unknown_fields_count_together() -> None:
    unknown = b"\xfa\x06\x80\x40" + b"x" * 8192  # field 111, 8 KiB
    assert over_limit(unknown * 8, GENERATE, LIMITS) is None
    over = over_limit(unknown * 9, GENERATE, LIMITS)
    assert over is not None
    assert over.field == "message"


@pytest.mark.parametrize("data", [b"", b"\x22", b"\x22\x05a", b"\xff" * 20, b"\x0f\x0f"])
def test_what_is_no_message_is_left_to_the_parser(data: bytes) -> None:
    assert over_limit(data, GENERATE, LIMITS) is None


@pytest.mark.parametrize("field", MANY)
def test_parsed_entries_are_counted_first(field: str) -> None:
    with pytest.raises(InvalidRequestError, match=rf"^{field}: at most"):
        to_request(inference_pb2.GenerateRequest(**MANY[field]), "r", None, LIMITS)


@pytest.mark.parametrize("field", MANY)
@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
async def test_calls_over_a_limit_are_refused(
    served: Harness, field: str, compression: grpc.Compression
) -> None:
    request = inference_pb2.GenerateRequest(**MANY[field])
    stream = served.inference.GenerateStream(request, compression=compression)
    for call in (served.inference.Generate(request, compression=compression), stream.read()):
        error = await refused(call, grpc.StatusCode.INVALID_ARGUMENT)
        (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
        assert violation.field == field
        assert ("loramux-reason", "invalid_request") in list(error.trailing_metadata())


async def test_limits_of_the_engine_hold(served: Harness) -> None:
    length = served.app.engine.max_context
    error = await refused(served.generate(token_ids=[1] * length), grpc.StatusCode.INVALID_ARGUMENT)
    assert f"token_ids: at most {length - 1} tokens" in error.details()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("/loramux.v1.Adapters/LoadAdapter", adapters_pb2.LoadAdapterRequest(path="a/" * 40_000)),
        ("/loramux.v1.Adapters/GetAdapter", adapters_pb2.GetAdapterRequest(adapter_id="*" * 70_000)),
        ("/loramux.v1.Adapters/ListAdapters", adapters_pb2.ListAdaptersRequest(page_token="x" * 70_000)),
        ("/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(service="x" * 70_000)),
    ],
)  # fmt: skip
async def test_long_texts_of_other_calls_are_refused(
    served: Harness, method: str, message: Message
) -> None:
    call = served.channel.unary_unary(method, type(message).SerializeToString, bytes)
    error = await refused(call(message), grpc.StatusCode.INVALID_ARGUMENT)
    assert "over 65536 bytes" in error.details()


async def test_a_compressed_message_counts_as_it_is_read(served: Harness) -> None:
    size = served.app.settings.max_message_bytes
    request = inference_pb2.GenerateRequest(prompt="x" * size)
    call = served.inference.Generate(request, compression=grpc.Compression.Gzip)
    await refused(call, grpc.StatusCode.RESOURCE_EXHAUSTED)


@pytest.mark.parametrize("data", [b"\x0a\x02\xff\xfe", b"\x0a\x7f"])
async def test_bytes_that_are_no_message_are_refused(served: Harness, data: bytes) -> None:
    call: Any = served.channel.unary_unary("/loramux.v1.Inference/Generate", bytes, bytes)
    error = await refused(call(data), grpc.StatusCode.INVALID_ARGUMENT)
    assert error.details() == "message: is no loramux.v1.GenerateRequest"


def nested(levels: int, how: str) -> bytes:
    """A template value with so many levels of objects or lists, as bytes."""
    value: Any = struct_pb2.Value(number_value=1)
    for _ in range(levels):
        outer = struct_pb2.Value()
        if how == "objects":
            outer.struct_value.fields["a"].CopyFrom(value)
        else:
            outer.list_value.values.append(value)
        value = outer
    request = inference_pb2.GenerateRequest()
    request.chat_template_kwargs.fields["a"].CopyFrom(value)
    return request.SerializeToString()


@pytest.mark.parametrize("how", ["objects", "lists"])
def test_levels_of_values_are_counted(how: str) -> None:
    assert over_limit(nested(15, how), GENERATE, LIMITS) is None
    over = over_limit(nested(40, how), GENERATE, LIMITS)
    assert over is not None
    assert over.field == "chat_template_kwargs"


VALUES_OVER: dict[str, dict[str, Any]] = {
    "a list": {"a": [0] * 3000},
    "objects": {str(i): {"a": i} for i in range(700)},
    "a text": {"a": "x" * 70_000},
}


@pytest.mark.parametrize("what", VALUES_OVER)
def test_values_are_counted_in_the_bytes(what: str) -> None:
    one = inference_pb2.GenerateRequest(chat_template_kwargs=VALUES_OVER[what]).SerializeToString()
    over = over_limit(one, GENERATE, LIMITS)
    assert over is not None
    assert over.field == "chat_template_kwargs"
    # A message that comes in parts is put together when it is parsed.
    part = inference_pb2.GenerateRequest(chat_template_kwargs={"a": [0] * 900}).SerializeToString()
    assert over_limit(part, GENERATE, LIMITS) is None
    assert over_limit(part * 3, GENERATE, LIMITS) is not None


async def test_values_over_a_limit_are_refused(served: Harness) -> None:
    messages = [{"role": "user", "content": "x"}]
    wrong: list[dict[str, Any]] = [{"a": [0] * 1100}, {"messages": []}, {"a": math.inf}]
    for values in (VALUES_OVER["a list"], *wrong):
        error = await refused(
            served.generate(messages=messages, chat_template_kwargs=values),
            grpc.StatusCode.INVALID_ARGUMENT,
        )
        (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
        assert violation.field == "chat_template_kwargs"
