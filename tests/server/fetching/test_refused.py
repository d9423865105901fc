"""What is refused or found damaged: no base is left of it, and no key is shown."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal

import pytest

from server.fetching import store
from server.fetching.errors import FetchError
from server.fetching.fetch import fetch
from tests.support.http import WebStore

from .bases import BASE, SUM, packed


@pytest.mark.parametrize(
    ("source", "options", "told"),
    [
        ("https://host/b.tar", {}, "needs its sha256"),
        ("https://host/b.tar", {"sha256": "1234"}, "'1234' is no sha256"),
        ("s3://bucket/b", {"revision": "v1"}, "for hf:// alone"),
        ("hf://org/name", SUM, "for archives"),
        ("hf://name", {}, "must have the form"),
        ("nothing://bucket/b", {}, "nothing://bucket/b: .*nothing"),
        ("file:///nowhere", {}, "FileNotFoundError"),
        ("https://me:secret@host/b.tar", SUM, "https://host/b.tar: a user and a password belong"),
        ("https://host:a/b?key=secret", SUM, "https://host:a/b: InvalidURL: nonnumeric port: 'a'"),
        ("http://[me:secret@host/b", SUM, "is no URL"),
        ("https://host/b.tar?key= secret", SUM, "without blanks"),
        ("https://host/b.tar?key=\x01secret", SUM, "without blanks"),
        ("hf://secret@org/name", {}, "hf://org/name must have the form .* HF_TOKEN"),
        ("hf://-org/name", {}, "hf://-org/name: HFValidationError"),
    ],
)
def test_what_is_refused(tmp_path: Path, source: str, options: dict[str, str], told: str) -> None:
    with pytest.raises(FetchError, match=told) as caught:
        fetch(source, tmp_path / "base", **options)
    assert "secret" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_is_no_archive(web: WebStore, tmp_path: Path) -> None:
    web.files["/b.tar"] = b"no tar"
    with pytest.raises(FetchError, match=r"/b.tar: ReadError: (file could not|not a)"):
        fetch(f"{web.url}/b.tar", tmp_path / "base", sha256=hashlib.sha256(b"no tar").hexdigest())


@pytest.mark.parametrize("mode", ["w:gz", "w:xz"])
def test_an_archive_that_ends_early(
    web: WebStore, tmp_path: Path, mode: Literal["w:gz", "w:xz"]
) -> None:
    whole, _ = packed({"config.json": os.urandom(1 << 17)}, mode=mode)
    web.files["/b.tar"] = whole[: 1 << 16]
    sha256 = hashlib.sha256(web.files["/b.tar"]).hexdigest()
    with pytest.raises(FetchError, match=r"/b.tar: \w+Error: "):
        fetch(f"{web.url}/b.tar", tmp_path / "base", sha256=sha256)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_keeps_something_else(
    web: WebStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.files["/b.tar.gz"], sha256 = packed(BASE)
    monkeypatch.setattr(
        "server.fetching.archive.shutil.copyfileobj", lambda answer, file, size: file.write(b"x")
    )
    with pytest.raises(FetchError, match="its sha256 is"):
        fetch(f"{web.url}/b.tar.gz", tmp_path / "base", sha256=sha256)


def test_an_archive_that_is_another(web: WebStore, tmp_path: Path) -> None:
    web.files["/b.tar.gz"], _ = packed(BASE)
    with pytest.raises(FetchError, match=r"its sha256 is [0-9a-f]{64}, not 0000"):
        fetch(f"{web.url}/b.tar.gz", tmp_path / "base", sha256="0" * 64)
    assert not (tmp_path / "base").exists()


def test_what_is_no_base(web: WebStore, tmp_path: Path) -> None:
    web.files["/b.tar"], sha256 = packed({"config.json": b"{}"})
    with pytest.raises(FetchError, match=r"has no \*.safetensors"):
        fetch(f"{web.url}/b.tar", tmp_path / "base", sha256=sha256)


def test_another_base_is_not_taken_for_it(web: WebStore, tmp_path: Path) -> None:
    web.put_repo("org/name", BASE)
    fetch("hf://org/name", tmp_path / "base", revision="main")
    with pytest.raises(FetchError, match=r"another base \(source hf://org/name, revision main\)"):
        fetch("hf://org/name", tmp_path / "base", revision="v2")
    (own := tmp_path / "own").mkdir()
    (own / "config.json").write_text("{}")
    with pytest.raises(FetchError, match="was not fetched here"):
        fetch("hf://org/name", own)


@pytest.mark.parametrize("marker", [b"", b'{"source": "hf', b"[]", b"\xff"])
def test_a_damaged_note_of_what_was_fetched(tmp_path: Path, marker: bytes) -> None:
    (base := tmp_path / "base").mkdir()
    (base / "config.json").write_text("{}")
    (base / ".loramux-fetched.json").write_bytes(marker)
    with pytest.raises(FetchError, match="is damaged: remove"):
        fetch("hf://org/name", base)


@pytest.mark.parametrize(
    ("source", "value", "told"),
    [
        ("http://host/b.tar", "Bearer secret", "is refused over http:// but to this machine"),
        ("https://host/b.tar", "Bearer\nsecret", "must be one line"),
    ],
)
def test_a_key_that_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, value: str, told: str
) -> None:
    monkeypatch.setenv("LORAMUX_FETCH_AUTHORIZATION", value)
    with pytest.raises(FetchError, match=told) as caught:
        fetch(source, tmp_path / "base", **SUM)
    assert "secret" not in str(caught.value)


def test_a_package_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(source: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(FetchError) as caught:
        fetch("s3://bucket/b", tmp_path / "base")
    told = "s3://bucket/b: Install s3fs to access S3: pip install 'loramux[sources]'"
    assert str(caught.value) == told


def test_an_error_of_a_library_shows_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(source: str, directory: Path) -> None:
        raise RuntimeError("user robot, password secret, of s3://robot:secret@host")

    monkeypatch.setattr(store, "fetch", failing)
    with pytest.raises(FetchError) as caught:
        fetch("s3://robot:secret@host/b", tmp_path / "base")
    told = "s3://host/b: RuntimeError: user ***, password ***, of s3://host"
    assert (str(caught.value), caught.value.__context__) == (told, None)
