"""Bases that are fetched: whole or not at all, each kind of source, and what is refused."""

from __future__ import annotations

import hashlib
import io
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from huggingface_hub import constants

from server.fetching import archive
from server.fetching.errors import FetchError
from server.fetching.fetch import fetch
from tests.support.http import WebStore, web_store

BASE = {"config.json": b"{}", "model.safetensors": b"weights", "tokenizer.json": b"{}"}


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebStore]:
    with web_store() as store:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", store.url)
        template = f"{store.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield store


def packed(files: dict[str, bytes], folder: str = "") -> tuple[bytes, str]:
    """A .tar.gz and its sha256."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(folder + name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue(), hashlib.sha256(out.getvalue()).hexdigest()


def held(directory: Path) -> dict[str, bytes]:
    """Files of the base, and that there is nothing else beside it."""
    assert list(directory.parent.iterdir()) == [directory]
    return {p.name: p.read_bytes() for p in directory.iterdir() if not p.name.startswith(".")}


@pytest.mark.parametrize("folder", ["", "./", "a/base/"])
def test_an_archive(web: WebStore, tmp_path: Path, folder: str) -> None:
    web.files["/b.tar.gz"], sha256 = packed(BASE, folder)
    target = tmp_path / "models" / "base"
    assert fetch(f"{web.url}/b.tar.gz", target, sha256=sha256)
    assert held(target) == BASE
    assert not fetch(f"{web.url}/b.tar.gz", target, sha256=sha256)
    assert len(web.fetched()) == 1


def test_an_archive_that_is_another(web: WebStore, tmp_path: Path) -> None:
    web.files["/b.tar.gz"], _ = packed(BASE)
    with pytest.raises(FetchError, match=r"its sha256 is [0-9a-f]{64}, not 0000"):
        fetch(f"{web.url}/b.tar.gz", tmp_path / "base", sha256="0" * 64)
    assert not (tmp_path / "base").exists()


def test_what_leaves_the_folder_of_an_archive_is_left_out(web: WebStore, tmp_path: Path) -> None:
    more = {"../../out": b"", "onnx/config.json": b"other"}
    web.files["/b.tar.gz"], sha256 = packed(BASE | more)
    target = tmp_path / "models" / "base"
    assert fetch(f"{web.url}/b.tar.gz", target, sha256=sha256)
    assert held(target) == BASE
    assert not (tmp_path / "out").exists()


def test_a_try_after_one_that_failed(web: WebStore, tmp_path: Path) -> None:
    web.files["/b.tar.gz"], sha256 = packed(BASE)
    web.failures["/b.tar.gz"] = 503
    target = tmp_path / "base"
    with pytest.raises(FetchError, match="503"):
        fetch(f"{web.url}/b.tar.gz", target, sha256=sha256)
    web.failures.clear()
    assert fetch(f"{web.url}/b.tar.gz", target, sha256=sha256)
    assert held(target) == BASE


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


def test_another_base_is_not_taken_for_it(web: WebStore, tmp_path: Path) -> None:
    web.put_repo("org/name", BASE)
    fetch("hf://org/name", tmp_path / "base", revision="main")
    with pytest.raises(FetchError, match=r"another base \(source hf://org/name, revision main\)"):
        fetch("hf://org/name", tmp_path / "base", revision="v2")
    (own := tmp_path / "own").mkdir()
    (own / "config.json").write_text("{}")
    with pytest.raises(FetchError, match="was not fetched here"):
        fetch("hf://org/name", own)


@pytest.mark.parametrize(
    ("source", "options", "told"),
    [
        ("https://host/b.tar", {}, "needs its sha256"),
        ("s3://bucket/b", {"revision": "v1"}, "for hf:// alone"),
        ("hf://org/name", {"sha256": "0" * 64}, "for archives"),
        ("hf://name", {}, "must have the form"),
        ("nothing://bucket/b", {}, "nothing://bucket/b: .*nothing"),
        ("file:///nowhere", {}, "FileNotFoundError"),
    ],
)
def test_what_is_refused(tmp_path: Path, source: str, options: dict[str, str], told: str) -> None:
    with pytest.raises(FetchError, match=told):
        fetch(source, tmp_path / "base", **options)
    assert not (tmp_path / "base").exists()


def test_what_is_no_archive(web: WebStore, tmp_path: Path) -> None:
    web.files["/b.tar"] = b"no tar"
    with pytest.raises(FetchError, match=r"/b.tar: (file could not be opened|not a)"):
        fetch(f"{web.url}/b.tar", tmp_path / "base", sha256=hashlib.sha256(b"no tar").hexdigest())


def test_what_is_no_base(web: WebStore, tmp_path: Path) -> None:
    web.files["/b.tar"], sha256 = packed({"config.json": b"{}"})
    with pytest.raises(FetchError, match=r"has no \*.safetensors"):
        fetch(f"{web.url}/b.tar", tmp_path / "base", sha256=sha256)


def test_the_first_of_two_pods_fetches_for_both(
    web: WebStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.files["/b.tar.gz"], sha256 = packed(BASE)
    target, bring = tmp_path / "base", archive.fetch
    done: list[bool] = []

    def slow(source: str, directory: Path, checksum: str) -> None:
        monkeypatch.setattr(archive, "fetch", bring)
        monkeypatch.setattr(socket, "gethostname", lambda: "another")
        done.append(fetch(source, target, sha256=checksum))
        bring(source, directory, checksum)

    monkeypatch.setattr(archive, "fetch", slow)
    done.append(fetch(f"{web.url}/b.tar.gz", target, sha256=sha256))
    assert done == [True, False]
    assert held(target) == BASE
