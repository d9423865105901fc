"""What comes over HTTP: by which way, how large, how slow."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from server.fetching import archive, download
from server.fetching.errors import FetchError
from server.fetching.fetch import fetch
from tests.support.http import WebStore

from .bases import BASE, SUM, held, packed


def test_what_is_for_this_machine_passes_no_proxy(
    web: WebStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.files["/b.tar.gz"], sha256 = packed(BASE)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("LORAMUX_FETCH_AUTHORIZATION", "Bearer secret")
    monkeypatch.delenv("no_proxy", raising=False)
    assert fetch(f"{web.url}/b.tar.gz", tmp_path / "base", sha256=sha256)
    assert web.authorizations == ["Bearer secret"]
    monkeypatch.delenv("LORAMUX_FETCH_AUTHORIZATION")
    with pytest.raises(FetchError, match="refused"):  # what is not for it does
        fetch("http://host.invalid/b.tar.gz", tmp_path / "other", sha256=sha256)


def test_redirects(web: WebStore, tmp_path: Path) -> None:
    web.files["/b.tar.gz"], sha256 = packed(BASE)
    web.redirects["/a"], web.redirects["/f"] = f"{web.url}/b.tar.gz", "ftp://127.0.0.1/b"
    assert fetch(f"{web.url}/a", tmp_path / "base", sha256=sha256)
    assert held(tmp_path / "base") == BASE
    with pytest.raises(FetchError, match="/f redirects to neither"):
        fetch(f"{web.url}/f", tmp_path / "other", sha256=sha256)


@pytest.mark.parametrize("announce", [True, False])
def test_more_than_there_is_room_for(
    web: WebStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, announce: bool
) -> None:
    web.files["/b.tar"], web.announce = b"x" * 1000, announce
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: SimpleNamespace(free=999))
    with pytest.raises(FetchError, match=rf"/b.tar is larger than the {999 if announce else 499} "):
        fetch(f"{web.url}/b.tar", tmp_path / "base", **SUM)


def test_drops(web: WebStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web.files["/b.tar"], web.drops["/b.tar"], web.announce = b"x", "bytes", False
    monkeypatch.setattr(download, "_TIMEOUT_S", 0.2)
    with pytest.raises(FetchError, match="comes with less than 16384 bytes a second"):
        fetch(f"{web.url}/b.tar", tmp_path / "base", **SUM)


def test_less_than_was_announced(web: WebStore, tmp_path: Path) -> None:
    web.files["/b.tar"], web.announce = b"x" * 10, False
    web.headers["Content-Length"] = "20"
    with pytest.raises(FetchError, match=r"/b.tar ends after 10 of 20 bytes"):
        fetch(f"{web.url}/b.tar", tmp_path / "base", **SUM)


def test_a_sparse_file(tmp_path: Path) -> None:
    member = tarfile.TarInfo("m/config.json")
    member.pax_headers = {
        "GNU.sparse.map": "0,1",
        "GNU.sparse.size": str(1 << 40),
        "GNU.sparse.name": "m/config.json",
    }
    member.size = 1
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as made:
        made.addfile(member, io.BytesIO(b"x"))
    out.seek(0)
    with tarfile.open(fileobj=out) as found, pytest.raises(FetchError, match="a sparse file"):
        archive._unpack(found, tmp_path)
    assert not list(tmp_path.iterdir())
