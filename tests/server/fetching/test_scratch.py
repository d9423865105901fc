"""A base is there whole or not at all, whoever else fetches it and whatever fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.fetching import archive
from server.fetching import fetch as fetching
from server.fetching.errors import FetchError
from server.fetching.fetch import fetch
from server.fetching.scratch import scratch
from tests.support.http import WebStore

from .bases import BASE, held, packed


def test_a_try_after_one_that_failed(web: WebStore, tmp_path: Path) -> None:
    web.files["/b.tar.gz"], sha256 = packed(BASE)
    web.failures["/b.tar.gz"] = 503
    target = tmp_path / "base"
    with pytest.raises(FetchError, match="503"):
        fetch(f"{web.url}/b.tar.gz", target, sha256=sha256)
    assert not list(tmp_path.iterdir())
    web.failures.clear()
    assert fetch(f"{web.url}/b.tar.gz", target, sha256=sha256)
    assert held(target) == BASE


def test_the_first_of_two_pods_fetches_for_both(
    web: WebStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.files["/b.tar.gz"], sha256 = packed(BASE)
    target, bring = tmp_path / "base", archive.fetch
    done: list[bool] = []

    def slow(source: str, directory: Path, checksum: str) -> None:
        monkeypatch.setattr(archive, "fetch", bring)
        done.append(fetch(source, target, sha256=checksum))
        bring(source, directory, checksum)

    monkeypatch.setattr(archive, "fetch", slow)
    done.append(fetch(f"{web.url}/b.tar.gz", target, sha256=sha256))
    assert done == [True, False]
    assert held(target) == BASE


@pytest.mark.parametrize("is_there", [True, False])
def test_what_a_killed_fetch_left_goes_and_what_another_writes_stays(
    web: WebStore, tmp_path: Path, is_there: bool
) -> None:
    web.files["/b.tar.gz"], sha256 = packed(BASE)
    target = tmp_path / "base"
    if is_there:
        fetch(f"{web.url}/b.tar.gz", target, sha256=sha256)
    (left := tmp_path / ".base.fetch-left" / "base").mkdir(parents=True)
    (left / "model-2.safetensors").write_bytes(b"of another base")
    (left.parent / "lock").touch()
    with scratch(target) as running:
        assert fetch(f"{web.url}/b.tar.gz", target, sha256=sha256) is not is_there
        assert sorted(tmp_path.iterdir()) == sorted([target, running.parent])
    assert held(target) == BASE


def test_what_took_its_place_is_on_the_disk(
    web: WebStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.files["/b.tar.gz"], sha256 = packed(BASE)
    target = tmp_path / "base"
    synced: list[tuple[str, bool]] = []
    monkeypatch.setattr(fetching, "sync", lambda path: synced.append((path.name, target.exists())))
    fetch(f"{web.url}/b.tar.gz", target, sha256=sha256)
    files = sorted((path.name, False) for path in target.iterdir())
    assert sorted(synced[: len(files)]) == files
    assert synced[len(files) :] == [("base", False), (tmp_path.name, True)]


def test_what_no_fetch_made_stays(web: WebStore, tmp_path: Path) -> None:
    web.files["/b.tar.gz"], sha256 = packed(BASE)
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (elsewhere / "lock").touch()
    (bases := tmp_path / "bases").mkdir()
    (link := bases / ".base.fetch-link").symlink_to(elsewhere)
    (own := bases / ".base.fetch-own").mkdir()
    (own / "precious").touch()
    assert fetch(f"{web.url}/b.tar.gz", bases / "base", sha256=sha256)
    assert list(elsewhere.iterdir()) == [elsewhere / "lock"]
    assert list(own.iterdir()) == [own / "precious"]
    assert link.is_symlink()
