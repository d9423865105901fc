"""Which URLs LoadAdapter may load, and under which id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from loramux.v1 import adapters_pb2 as pb

from lora_runtime import InvalidRequestError
from server.load_settings import load
from server.locations import Locations, adapter_id_of
from server.sources import SettingsError

SOURCES = [
    "hf://my-org",
    "hf://other/one",
    "hf://other/two@main",
    "hf://other/two@refs/pr/7",
    "hf://other/three/dir",
    "s3://bucket/adapters/",
]


def resolve(source: str) -> str:
    return str(Locations([], SOURCES).resolve(pb.LoadAdapterRequest(source=source)))


@pytest.mark.parametrize(
    "source",
    [
        "hf://my-org/a",
        "hf://my-org/a@v1.0",
        "hf://other/one",
        "hf://other/one@main",
        "hf://my-org/a@v1/dir",
        "hf://other/two@main/dir",
        "hf://other/two@refs/pr/7",
        "hf://other/two@refs/pr/7/dir",
        "s3://bucket/adapters/x@1",
        "s3://bucket/adapters/x/y",
    ],
)
def test_below_a_source(source: str) -> None:
    assert resolve(source) == source


@pytest.mark.parametrize(
    "source",
    [
        "hf://my-org-2/a",
        "hf://other/one-more",
        "hf://other",
        "s3://bucket/adapters-2/x",
        "s3://bucket/x",
        "S3://bucket/x",
        "https://my-org/a",
        "file:///etc",
        "hf://my-org/a@refs/pr/7",
        "hf://other/one@refs/pr/7",
        "hf://other/one@refs",
        "hf://other/one@a@b",
        "hf://other/two",
        "hf://other/two@main@pr",
        "hf://other/two@refs/pr/77",
        "hf://other/two@refs/pr/7@x",
        "hf://other/three/dir@x",
        "s3://bucket/adapters@x",
    ],
)
def test_outside(source: str) -> None:
    with pytest.raises(PermissionError):
        resolve(source)


@pytest.mark.parametrize(
    "source",
    [
        "hf://my-org/../other/two",
        "hf://my-org/./a",
        "hf://my-org//a",
        "hf://my-org/%2e%2e/x",
        "hf://my-org\\..\\x",
        "s3://bucket/adapters/x::file:///etc",
        "s3://user:secret@bucket/adapters/x",
        "s3://bucket/adapters/x?token=secret",
        "s3://bucket/adapters/x#f",
        "hf://",
        "no-url",
        "zip::s3://bucket/adapters/x",
        "hf://my-org/a\n",
        "hf://my-org/a b",
        "https://[secret/x",
        "hf://my-org/" + "x" * 5000,
    ],
)
def test_refused_whatever_is_allowed(source: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        resolve(source)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"path": "dir/a"}, "a"),
        ({"path": "dir/a/"}, "a"),
        ({"path": "dir/a", "adapter_id": "x"}, "x"),
        ({"source": "hf://o/n@v1.0"}, "n"),
        ({"source": "hf://o/n@refs/pr/7"}, "n"),
        ({"source": "hf://o/n@v1/dir"}, "dir"),
        ({"source": "hf://o/n@refs/pr/7/dir/"}, "dir"),
        ({"source": "s3://b/dir/a/"}, "a"),
    ],
    ids=str,
)
def test_ids(fields: dict[str, Any], expected: str) -> None:
    assert adapter_id_of(pb.LoadAdapterRequest(**fields)) == expected


def refusal(root: Path, path: str) -> str:
    with pytest.raises((InvalidRequestError, PermissionError)) as caught:
        Locations([root], []).resolve(pb.LoadAdapterRequest(path=path))
    return str(caught.value)


def test_nothing_is_said_about_what_is_outside_the_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, there = tmp_path / "root", tmp_path / "there"
    root.mkdir()
    there.mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (there / "file").touch()
    monkeypatch.setattr("os.listdir", lambda path: pytest.fail(f"listed {path}"))
    paths = ("../there", "../there/file", "../loop", "../not-there", "../" + "x" * 300, str(there))
    assert {refusal(root, path) for path in paths} == {
        "the path is outside the server's adapter roots"
    }


def test_names_are_below_sources() -> None:
    sources = ["hf://my-org", "s3://bucket/x/", "hf://", "memory://"]
    locations = Locations([], sources)
    assert list(locations.below("a")) == ["hf://my-org/a", "s3://bucket/x/a", "memory://a"]
    assert "hf://org/a" in locations.below("org/a")


def test_odd_paths_below_a_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "closed").mkdir()

    def listdir(path: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.listdir", listdir)
    assert (
        Locations([tmp_path], []).resolve(pb.LoadAdapterRequest(path="loop")) == tmp_path / "loop"
    )
    assert refusal(tmp_path, "x" * 300) == "path: cannot be read"
    assert (
        refusal(tmp_path, "closed") == "path: cannot be read: the server's user has no permission"
    )
    assert "4096" in refusal(tmp_path, "x/" * 3000)


def test_without_sources_no_url() -> None:
    with pytest.raises(PermissionError):
        Locations([], []).resolve(pb.LoadAdapterRequest(source="hf://o/n"))


@pytest.mark.parametrize("prefix", ["my-org", "://x", "/dir"])
def test_settings_take_urls_only(prefix: str) -> None:
    with pytest.raises(SettingsError, match="adapter_sources"):
        load({"base": "b", "adapter_sources": [prefix]})
