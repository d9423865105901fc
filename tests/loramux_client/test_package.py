"""What the package says of itself and of the messages is what they are."""

from __future__ import annotations

from typing import Any, get_type_hints

import loramux_client
import pytest
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from loramux.v1 import adapters_pb2, inference_pb2
from loramux_client import details, fields

import lora_runtime


def test_its_version_is_loramuxs() -> None:
    assert loramux_client.__version__ == lora_runtime.__version__


def test_it_names_all_that_it_has() -> None:
    assert sorted(loramux_client.__all__) == loramux_client.__all__
    assert all(hasattr(loramux_client, name) for name in loramux_client.__all__)


def test_both_clients_have_the_same_calls() -> None:
    sync, aio = (
        {name for name in vars(kind) if not name.startswith("_")}
        for kind in (loramux_client.Client, loramux_client.AsyncClient)
    )
    assert sync == aio


@pytest.mark.parametrize(
    ("hints", "message"),
    [
        (fields.GenerateFields, inference_pb2.GenerateRequest),
        (fields.LoadFields, adapters_pb2.LoadAdapterRequest),
        (fields.PolicyFields, adapters_pb2.Policy),
    ],
)
def test_type_checkers_know_every_field(hints: Any, message: type[Message]) -> None:
    assert list(get_type_hints(hints)) == [field.name for field in message.DESCRIPTOR.fields]


def test_details_are_read_as_they_are_declared() -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="f", description="d")
    subject = error_details_pb2.QuotaFailure.Violation(subject="s", description="e")
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    packed = [
        error_details_pb2.BadRequest(field_violations=[violation]),
        error_details_pb2.QuotaFailure(violations=[subject]),
        retry,
        error_details_pb2.RequestInfo(request_id="r"),
        error_details_pb2.ResourceInfo(resource_type="t", resource_name="n"),
        error_details_pb2.ErrorInfo(reason="R", domain="loramux"),
        error_details_pb2.Help(),
    ]
    status = status_pb2.Status(code=8, message="m")
    for one in packed:
        status.details.append(any_pb2.Any())
        status.details[-1].Pack(one)
    found = details.read(status.SerializeToString())
    assert found["google.rpc.BadRequest"].violations[0].subject == "f"
    assert found["google.rpc.QuotaFailure"].violations[0].description == "e"
    delay = found["google.rpc.RetryInfo"].retry_delay
    assert (delay.seconds, delay.nanos) == (1, 500_000_000)
    assert found["google.rpc.RequestInfo"].request_id == "r"
    assert found["google.rpc.ResourceInfo"].resource_name == "n"
    assert found["google.rpc.ErrorInfo"].reason == "R"
    assert "google.rpc.Help" not in found
