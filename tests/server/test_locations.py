"""Which URLs LoadAdapter may load, and under which id."""

from __future__ import annotations

import pytest
from loramux.v1 import adapters_pb2 as pb

from lora_runtime import InvalidRequestError
from server.config import SettingsError, load
from server.locations import Locations, adapter_id_of

SOURCES = ["hf://my-org", "hf://other/one", "s3://bucket/adapters/"]


def resolve(source: str) -> str:
    return str(Locations([], SOURCES).resolve(pb.LoadAdapterRequest(source=source)))


@pytest.mark.parametrize("source", [
    "hf://my-org/a", "hf://my-org/a@v1.0", "hf://other/one", "hf://other/one@main", "s3://bucket/adapters/x/y"])
def test_below_a_source(source: str) -> None:
    assert resolve(source) == source


@pytest.mark.parametrize("source", [
    "hf://my-org-2/a", "hf://other/one-more", "hf://other", "s3://bucket/adapters-2/x", "s3://bucket/x", "S3://bucket/x",
    "https://my-org/a", "file:///etc"])
def test_outside(source: str) -> None:
    with pytest.raises(PermissionError):
        resolve(source)


@pytest.mark.parametrize("source", [
    "hf://my-org/../other/two", "hf://my-org/./a", "hf://my-org//a", "hf://my-org/%2e%2e/x", "hf://my-org\\..\\x",
    "s3://bucket/adapters/x::file:///etc", "s3://user:secret@bucket/adapters/x", "s3://bucket/adapters/x?token=secret",
    "s3://bucket/adapters/x#f", "hf://", "no-url", "zip::s3://bucket/adapters/x", "hf://my-org/a\n", "hf://my-org/a b"])
def test_refused_whatever_is_allowed(source: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        resolve(source)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("fields", "expected"), [
    ({"path": "dir/a"}, "a"), ({"path": "dir/a/"}, "a"), ({"path": "dir/a", "adapter_id": "x"}, "x"),
    ({"source": "hf://o/n@v1.0"}, "n"), ({"source": "s3://b/dir/a/"}, "a")], ids=str)
def test_ids(fields: dict[str, str], expected: str) -> None:
    assert adapter_id_of(pb.LoadAdapterRequest(**fields)) == expected


def test_without_sources_no_url() -> None:
    with pytest.raises(PermissionError):
        Locations([], []).resolve(pb.LoadAdapterRequest(source="hf://o/n"))


@pytest.mark.parametrize("prefix", ["my-org", "://x", "/dir"])
def test_settings_take_urls_only(prefix: str) -> None:
    with pytest.raises(SettingsError, match="adapter_sources"):
        load({"base": "b", "adapter_sources": [prefix]})
