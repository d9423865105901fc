"""Bases that are fetched, of each kind of source."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from server.fetching.errors import FetchError
from server.fetching.fetch import fetch
from tests.support.http import WebStore

from .bases import BASE, held, packed


@pytest.mark.parametrize("folder", ["", "./", "a/base/"])
def test_an_archive(web: WebStore, tmp_path: Path, folder: str) -> None:
    web.files["/b.tar.gz"], sha256 = packed(BASE, folder)
    target = tmp_path / "models" / "base"
    assert fetch(f"{web.url}/b.tar.gz", target, sha256=sha256)
    assert held(target) == BASE
    assert not fetch(f"{web.url}/b.tar.gz", target, sha256=sha256)
    assert len(web.fetched()) == 1


def test_what_leaves_the_folder_of_an_archive_is_left_out(web: WebStore, tmp_path: Path) -> None:
    more = {"../../out": b"", "onnx/config.json": b"other"}
    web.files["/b.tar.gz"], sha256 = packed(BASE | more)
    target = tmp_path / "models" / "base"
    assert fetch(f"{web.url}/b.tar.gz", target, sha256=sha256)
    assert held(target) == BASE
    assert not (tmp_path / "out").exists()


def test_a_key_goes_to_the_store_and_not_where_it_leads(
    web: WebStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAMUX_FETCH_AUTHORIZATION", "Bearer key")
    web.files["/other.tar"], sha256 = packed(BASE)
    web.redirects["/b.tar"] = f"{web.url}/other.tar"
    fetch(f"{web.url}/b.tar", tmp_path / "base", sha256=sha256)
    assert web.authorizations == ["Bearer key", None]


def test_a_hub(web: WebStore, tmp_path: Path) -> None:
    more = {"pytorch_model.bin": b"", "README.md": b"", "onnx/config.json": b"{}"}
    web.put_repo("org/name", BASE | more, revision="v1")
    assert fetch("hf://org/name", tmp_path / "base", revision="v1")
    assert held(tmp_path / "base") == BASE


def test_a_hub_that_has_it_not(web: WebStore, tmp_path: Path) -> None:
    web.headers["x-error-code"] = "RepoNotFound"
    with pytest.raises(FetchError, match="hf://org/none: "):
        fetch("hf://org/none", tmp_path / "base")


def test_a_store(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    for name, data in (BASE | {"optimizer/state": b""}).items():
        store.pipe(f"/bucket/base/{name}", data)
    assert fetch("memory://bucket/base", tmp_path / "base")
    assert held(tmp_path / "base") == BASE
