"""Fields of a message of generation: none is passed over."""

from __future__ import annotations

from loramux.v1 import inference_pb2 as pb

from server.services import requests


def test_every_field_of_a_message_has_its_place() -> None:
    places = [*requests._REQUEST, *requests._SAMPLING, "request_id"]
    assert sorted(places) == sorted(pb.GenerateRequest.DESCRIPTOR.fields_by_name)
