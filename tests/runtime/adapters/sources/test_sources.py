"""Sources of adapters: what is fetched, what is refused, what is asked again, and what errors say."""

from __future__ import annotations

import fcntl
import gc
import os
import queue
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.http import HTTPFileSystem
from huggingface_hub import HfApi, constants

from lora_runtime import AdapterError
from lora_runtime.adapters.sources import disk_cache, http_calls, remote, source_files
from lora_runtime.adapters.sources.disk_cache import DiskCache, digest, sweep
from lora_runtime.adapters.sources.sources import is_remote, resolve
from lora_runtime.errors import AdapterMissingError, AdapterUnavailableError

from ....support.http import WebStore, web_store
from ....support.versions import need

FILES = {
    "adapter_config.json": b'{"r": 4}',
    "adapter_model.safetensors": b"weights",
    "tokenizer.json": b"{}",
}
UNWANTED = {"adapter_model.bin": b"pickle", "optimizer.pt": b"pickle", "README.md": b"#"}
LIMIT = 1000


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def memory(request: pytest.FixtureRequest) -> Iterator[fsspec.AbstractFileSystem]:
    fs = fsspec.filesystem("memory")
    for name, data in (FILES | UNWANTED).items():
        fs.pipe_file(f"/bucket/a/{name}", data)
    yield fs
    fs.rm("/bucket", recursive=True)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebStore]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with web_store() as store:
        store.files = {f"/x/a/{name}": data for name, data in (FILES | UNWANTED).items()}
        yield store


@pytest.fixture
def hub(web: WebStore, monkeypatch: pytest.MonkeyPatch) -> WebStore:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", web.url)
    template = f"{web.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    web.put_repo(
        "org/name",
        FILES | UNWANTED | {f"deep/er/{name}": data + b" " for name, data in FILES.items()},
    )
    return web


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def leftovers(cache: Path) -> list[Path]:
    return list(cache.glob("tmp-*"))


# --- the cache's lock ------------------------------------------------------------------------------


def test_a_lock_that_is_stuck_ends_its_own_load(
    web: WebStore, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process, perhaps stopped, holds it: the load fails, and the next one works."""
    DiskCache(cache)
    monkeypatch.setattr(disk_cache, "LOCK_WAIT_S", 0.1)
    with (cache / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(AdapterUnavailableError, match="holds the lock of the cache"):
            resolve(f"{web.url}/x/a", cache, max_bytes=LIMIT)
        assert not leftovers(cache)
    assert contents(resolve(f"{web.url}/x/a", cache, max_bytes=LIMIT)) == FILES


# --- redirects -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "leads_to",
    [
        "{other}/x/a/{name}",
        "{own}/x/b/{name}",
        "{own}/x/ab/{name}",
        "{own}/x/a/../b/{name}",
        "{own}/x/a/%2e%2e/b/{name}",
        "/x/a/..%2fb/{name}",
        "//{authority}/x/a/{name}",
    ],
)
@pytest.mark.parametrize("name", ["adapter_config.json", "tokenizer.json"])
def test_no_redirect_leads_out_of_the_prefix(
    web: WebStore, cache: Path, leads_to: str, name: str
) -> None:
    """Neither another address nor another path of the same one is ever asked."""
    with web_store() as other:
        other.files = dict(web.files)
        web.files |= {path.replace("/x/a/", "/x/b/"): data for path, data in web.files.items()}
        authority = other.url.removeprefix("http://")
        web.redirects[f"/x/a/{name}"] = leads_to.format(
            other=other.url, own=web.url, name=name, authority=authority
        )
        with pytest.raises(AdapterError, match="redirects out of its own prefix") as caught:
            resolve(f"{web.url}/x/a", cache, max_bytes=LIMIT)
        assert authority not in str(caught.value)
        assert not other.seen
        assert all(line.partition(" ")[2].startswith("/x/a/") for line in web.seen)
        assert not any(".." in line or "%2" in line for line in web.seen)


def test_a_redirect_within_the_prefix(web: WebStore, cache: Path) -> None:
    for name in FILES:
        web.files[f"/x/a/v2/{name}"] = web.files.pop(f"/x/a/{name}")
        web.redirects[f"/x/a/{name}"] = f"v2/{name}"
    assert contents(resolve(f"{web.url}/x/a/", cache, max_bytes=LIMIT)) == FILES


# --- slow web servers ----------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["header lines", "bytes"])
def test_a_server_that_answers_in_drops_is_given_up(
    web: WebStore, cache: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Each drop is in time: only the whole is not."""
    monkeypatch.setattr(http_calls, "BEGINNING_S", 0.2)
    monkeypatch.setattr(remote, "_READ_S", 0.2)
    path = "/x/a/adapter_model.safetensors"
    web.files[path], web.drops[path] = bytes(LIMIT), what
    with pytest.raises(AdapterUnavailableError, match=r"TimeoutError|less than \d+ bytes a second"):
        resolve(f"{web.url}/x/a", cache, max_bytes=LIMIT)
    assert not leftovers(cache)


# --- directories ------------------------------------------------------------------------------------


def test_a_directory_stays_where_it_is(tmp_path: Path, cache: Path) -> None:
    assert resolve(str(tmp_path), cache, max_bytes=LIMIT) == tmp_path
    assert not cache.exists()


@pytest.mark.parametrize("source", ["", "no/such/place", "bad\0name"])
def test_a_missing_directory_is_refused(source: str, cache: Path) -> None:
    with pytest.raises(AdapterError):
        resolve(source, cache, max_bytes=LIMIT)


def test_urls_are_told_from_paths() -> None:
    assert [is_remote(s) for s in ("hf://a/b", "s3://b/k", "/data/a", "a:b", "C:\\a")] == [
        True,
        True,
    ] + [False] * 3


# --- stores -----------------------------------------------------------------------------------------


def test_only_the_adapters_files_are_fetched(
    memory: fsspec.AbstractFileSystem, cache: Path
) -> None:
    found = resolve("memory://bucket/a", cache, max_bytes=LIMIT)
    assert contents(found) == FILES
    assert found == cache / digest(found)
    assert not leftovers(cache)


def test_the_same_content_is_stored_once(memory: fsspec.AbstractFileSystem, cache: Path) -> None:
    for name, data in FILES.items():
        memory.pipe_file(f"/bucket/b/{name}", data)
    first, second = (resolve(f"memory://bucket/{n}/", cache, max_bytes=LIMIT) for n in "ab")
    assert first == second


def test_a_store_is_asked_each_time(memory: fsspec.AbstractFileSystem, cache: Path) -> None:
    old = resolve("memory://bucket/a", cache, max_bytes=LIMIT)
    memory.pipe_file("/bucket/a/adapter_model.safetensors", b"newer!!")
    new = resolve("memory://bucket/a", cache, max_bytes=LIMIT)
    assert contents(new)["adapter_model.safetensors"] == b"newer!!"
    assert contents(old) == FILES


def test_files_of_this_machine_by_url(tmp_path: Path, cache: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    assert contents(resolve(tmp_path.as_uri(), cache, max_bytes=LIMIT)) == FILES


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_required_file_is_missing(
    memory: fsspec.AbstractFileSystem, cache: Path, name: str
) -> None:
    memory.rm(f"/bucket/a/{name}")
    with pytest.raises(AdapterError, match=rf"memory://bucket/a.*{name} is missing"):
        resolve("memory://bucket/a", cache, max_bytes=LIMIT)


def test_a_directory_in_place_of_a_file(memory: fsspec.AbstractFileSystem, cache: Path) -> None:
    memory.rm("/bucket/a/tokenizer.json")
    memory.pipe_file("/bucket/a/tokenizer.json/x", b"")
    with pytest.raises(AdapterError, match=r"tokenizer\.json is not a file"):
        resolve("memory://bucket/a", cache, max_bytes=LIMIT)


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("adapter_config.json", 1 << 20),
        ("adapter_model.safetensors", LIMIT),
        ("tokenizer.json", 2000),
    ],
)
def test_size_limits(
    memory: fsspec.AbstractFileSystem,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    limit: int,
) -> None:
    monkeypatch.setattr(source_files, "MAX_TOKENIZER_BYTES", 2000)
    memory.pipe_file(f"/bucket/a/{name}", b" " * limit)
    resolve("memory://bucket/a", cache, max_bytes=LIMIT)
    memory.pipe_file(f"/bucket/a/{name}", b" " * (limit + 1))
    with pytest.raises(AdapterError, match=rf"{name} is larger than the limit of {limit} bytes"):
        resolve("memory://bucket/a", cache, max_bytes=LIMIT)


def test_a_store_that_keeps_changing(
    memory: fsspec.AbstractFileSystem, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download = remote._Store.download
    done: list[str] = []

    def changing(self: remote._Store, name: str, target: Path, limits: Any) -> int:
        size = download(self, name, target, limits)
        done.append(name)
        if len(done) <= changes:
            memory.pipe_file("/bucket/a/adapter_config.json", b" " * len(done))
        return size

    monkeypatch.setattr(remote._Store, "download", changing)
    changes = 2
    found = resolve("memory://bucket/a", cache, max_bytes=LIMIT)
    assert contents(found)["adapter_config.json"] == b"  "
    changes, done = 100, []
    with pytest.raises(AdapterUnavailableError, match="keeps changing"):
        resolve("memory://bucket/a", cache, max_bytes=LIMIT)
    assert not leftovers(cache)


def test_a_download_that_ends_early(
    memory: fsspec.AbstractFileSystem, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(path: str, target: str, callback: object) -> None:
        Path(target).write_bytes(FILES[Path(path).name][:-1])

    monkeypatch.setattr(type(memory), "get_file", staticmethod(short))
    with pytest.raises(AdapterUnavailableError, match="end early"):
        resolve("memory://bucket/a", cache, max_bytes=LIMIT)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("nope://bucket/a", "protocol 'nope' is not supported"),
        ("zip://a.zip", "protocol 'zip' is not supported"),
        ("simplecache::s3://b/a", "is not a directory"),
        ("s3://b/a::file:///etc", "not supported"),
        ("memory://bucket/a/../b", "must not contain '..'"),
        ("https://h/a/%2e%2e/b", "must not contain '..'"),
        ("hf://org/name/../b", "must not contain '..'"),
        ("hf://name", "hf://org/name"),
        ("hf://org/name with space", "hf://org/name"),
    ],
)
def test_refused_urls(source: str, text: str, cache: Path) -> None:
    with pytest.raises(AdapterError) as caught:
        resolve(source, cache, max_bytes=LIMIT)
    assert text in str(caught.value)


def test_a_missing_package_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: object, **options: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(AdapterUnavailableError, match="needs the package 's3fs'"):
        resolve("s3://bucket/a", cache, max_bytes=LIMIT)


def test_a_disk_that_refuses(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AdapterUnavailableError, match=r"memory://bucket/a.*NotADirectoryError"):
        resolve("memory://bucket/a", tmp_path / "file" / "cache", max_bytes=LIMIT)


# --- the web ----------------------------------------------------------------------------------------


def test_a_prefix_of_the_web(web: WebStore, cache: Path) -> None:
    assert contents(resolve(f"{web.url}/x/a/", cache, max_bytes=LIMIT)) == FILES


def test_a_session_is_not_closed_where_garbage_is_collected(
    web: WebStore, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That would wait there: on the engine's thread, or in the event loop."""
    own, closed = HTTPFileSystem.close_session, queue.Queue[int]()

    def close(loop: Any, session: Any) -> None:
        own(loop, session)
        closed.put(threading.get_ident())

    monkeypatch.setattr(HTTPFileSystem, "close_session", staticmethod(close))
    with pytest.raises(AdapterError):
        resolve(f"{web.url}/nothing", cache, max_bytes=1 << 20)
    gc.collect()
    assert closed.get(timeout=30) != threading.get_ident()


def test_the_query_goes_with_every_file(web: WebStore, cache: Path) -> None:
    resolve(f"{web.url}/x/a?sig=s3cret", cache, max_bytes=LIMIT)
    assert all(line.endswith("?sig=s3cret") for line in web.seen)
    assert "/x/a/adapter_config.json?sig=s3cret" in web.fetched()


def test_known_entity_tags_are_not_fetched_again(web: WebStore, cache: Path) -> None:
    first = resolve(f"{web.url}/x/a", cache, max_bytes=LIMIT)
    web.seen.clear()
    assert resolve(f"{web.url}/x/a", cache, max_bytes=LIMIT) == first
    assert not [path for path in web.fetched() if path.removeprefix("/x/a/") in FILES]
    web.files["/x/a/adapter_model.safetensors"] = b"newer"
    second = resolve(f"{web.url}/x/a", cache, max_bytes=LIMIT)
    assert contents(second)["adapter_model.safetensors"] == b"newer"


def test_without_entity_tags_everything_is_fetched_again(web: WebStore, cache: Path) -> None:
    web.etags = False
    resolve(f"{web.url}/x/a", cache, max_bytes=LIMIT)
    web.files["/x/a/adapter_model.safetensors"] = b"WEIGHTS"
    assert (
        contents(resolve(f"{web.url}/x/a", cache, max_bytes=LIMIT))["adapter_model.safetensors"]
        == b"WEIGHTS"
    )


def test_sizes_that_are_not_announced_are_counted(web: WebStore, cache: Path) -> None:
    web.announce = False
    web.files["/x/a/adapter_model.safetensors"] = b" " * (LIMIT + 1)
    with pytest.raises(AdapterError, match=f"larger than the limit of {LIMIT}"):
        resolve(f"{web.url}/x/a", cache, max_bytes=LIMIT)
    assert not leftovers(cache)


@pytest.mark.parametrize("status", [500, 503, 401])
def test_a_failing_server_is_not_an_adapter_without_tokenizer(
    web: WebStore, cache: Path, status: int
) -> None:
    web.failures["/x/a/tokenizer.json"] = status
    with pytest.raises(AdapterUnavailableError, match=str(status)):
        resolve(f"{web.url}/x/a", cache, max_bytes=LIMIT)


def test_stores_that_forbid_what_is_not_there(web: WebStore, cache: Path) -> None:
    for name in source_files.OPTIONAL:
        web.failures[f"/x/a/{name}"] = 403
    assert contents(resolve(f"{web.url}/x/a", cache, max_bytes=LIMIT)).keys() == set(
        source_files.REQUIRED
    )
    web.failures["/x/a/adapter_config.json"] = 403
    with pytest.raises(AdapterUnavailableError, match="403"):
        resolve(f"{web.url}/x/a", cache, max_bytes=LIMIT)


def test_credentials_stay_out_of_errors(web: WebStore, cache: Path) -> None:
    web.failures = {f"/x/a/{name}": 500 for name in FILES}
    source = web.url.replace("//", "//user:pass%20word@") + "/x/a?sig=s3cret%2B"
    with pytest.raises(AdapterUnavailableError) as caught:
        resolve(source, cache, max_bytes=LIMIT)
    text = "".join(traceback.format_exception(caught.value, chain=True))
    assert f"{web.url}/x/a" in str(caught.value)
    assert not [secret for secret in ("user", "pass", "s3cret") if secret in str(caught.value)]
    assert "s3cret" not in text
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://h/p?sig=a'bcd", "https://h/p"),
        ('https://h/p?sig=a"<bcd', "https://h/p"),
        ("s3://us er:pw@b/k", "s3://b/k"),
        ("s3://us'er:p\"w@b", "s3://b"),
        ("s3://u:p@w@b", "s3://b"),
        ("no 'https://u:p@h/p?x=y', it is gone", "no 'https://h/p', it is gone"),
        ("'s3://b' failed for a@b", "'s3://b' failed for a@b"),
        ("hf://o/n@main/dir", "hf://o/n@main/dir"),
    ],
    ids=str,
)
def test_redaction(text: str, shown: str) -> None:
    assert source_files.redact(text) == shown


# --- shards -----------------------------------------------------------------------------------------


SHARDS = {
    "adapter_config.json": b"{}",
    "adapter_model.safetensors.index.json": b'{"weight_map": {"a": "s1.safetensors", "b": "s2.safetensors"}}',
    "s1.safetensors": b"one",
    "s2.safetensors": b"two",
}
SECOND = "s2.safetensors"


def put_shards(store: WebStore, files: dict[str, bytes] = SHARDS, **options: str) -> None:
    store.files |= {f"/x/parts/{name}": data for name, data in (files | UNWANTED).items()}
    store.put_repo("org/parts", files | UNWANTED | {"s3.safetensors": b"not named"}, **options)


@pytest.fixture(params=["https", "hf"])
def parts(request: pytest.FixtureRequest, hub: WebStore) -> str:
    put_shards(hub)
    return f"{hub.url}/x/parts" if request.param == "https" else "hf://org/parts"


def test_shards_are_fetched_by_their_index(hub: WebStore, cache: Path, parts: str) -> None:
    found = resolve(parts, cache, max_bytes=LIMIT)
    assert contents(found) == SHARDS
    hub.seen.clear()
    assert resolve(parts, cache, max_bytes=LIMIT) == found
    assert not [path for path in hub.fetched() if path.endswith(("s1.safetensors", SECOND))]
    put_shards(hub, SHARDS | {SECOND: b"new"})
    hub.commit = "e" * 40
    put_shards(hub, SHARDS | {SECOND: b"new"})
    assert contents(resolve(parts, cache, max_bytes=LIMIT))[SECOND] == b"new"


def test_one_file_is_taken_before_shards(hub: WebStore, cache: Path, parts: str) -> None:
    put_shards(hub, SHARDS | FILES)
    assert contents(resolve(parts, cache, max_bytes=LIMIT)) == FILES


@pytest.mark.parametrize(
    ("index", "names"),
    [
        (b'{"weight_map": {"a": "none.safetensors"}}', "none.safetensors is missing, which"),
        (b'{"weight_map": {"a": "../a/s1.safetensors"}}', "is no name of a shard"),
        (b"[]", "is not a JSON object"),
        (b" " * (5 << 20), "larger than the limit of 4194304 bytes"),
    ],
)
def test_indexes_that_are_refused(
    hub: WebStore, cache: Path, parts: str, index: bytes, names: str
) -> None:
    put_shards(hub, SHARDS | {"adapter_model.safetensors.index.json": index})
    hub.seen.clear()
    with pytest.raises(AdapterError, match=f"{parts.removeprefix(hub.url)}.*{names}"):
        resolve(parts, cache, max_bytes=LIMIT)
    assert not any("/s1.safetensors" in path for path in hub.seen)
    assert not leftovers(cache)


@pytest.mark.parametrize("announced", [True, False])
def test_shards_share_the_limit(hub: WebStore, cache: Path, parts: str, announced: bool) -> None:
    assert contents(resolve(parts, cache, max_bytes=6)) == SHARDS
    hub.announce = announced
    if parts.startswith("hf:") and not announced:  # before, such a file counts as a missing one
        need("huggingface_hub", 1, 31, "a file without an announced size")
    with pytest.raises(AdapterError, match=f"{SECOND} is larger than the limit of 2 bytes that"):
        resolve(parts, cache / "other", max_bytes=5)


def test_shards_without_an_index(hub: WebStore, cache: Path) -> None:
    shard = "adapter_model-00001-of-00002.safetensors"
    hub.put_repo("org/name", {"adapter_config.json": b"{}", shard: b"", "a/b": b""})
    with pytest.raises(AdapterError, match=r"org/name.*in shards, and .*index.json is missing"):
        resolve("hf://org/name", cache, max_bytes=LIMIT)


def test_stores_that_forbid_the_one_file(web: WebStore, cache: Path) -> None:
    """They say so of files that are not there."""
    web.failures["/x/parts/adapter_model.safetensors"] = 403
    with pytest.raises(AdapterUnavailableError, match="403"):
        resolve(f"{web.url}/x/parts", cache, max_bytes=LIMIT)
    web.files |= {f"/x/parts/{name}": data for name, data in SHARDS.items()}
    assert contents(resolve(f"{web.url}/x/parts", cache, max_bytes=LIMIT)) == SHARDS


# --- the hub ----------------------------------------------------------------------------------------


def test_hub(hub: WebStore, cache: Path) -> None:
    found = resolve("hf://org/name", cache, max_bytes=LIMIT)
    assert contents(found) == FILES
    assert not [path for path in hub.fetched() if path.endswith((".bin", ".pt", ".md"))]
    assert resolve("hf://org/name@main", cache, max_bytes=LIMIT) == found
    deeper = resolve("hf://org/name@main/deep/er", cache, max_bytes=LIMIT)
    assert contents(deeper)["adapter_model.safetensors"] == b"weights "
    assert not leftovers(cache)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("RepoNotFound", AdapterMissingError),
        ("RevisionNotFound", AdapterMissingError),
        ("GatedRepo", AdapterUnavailableError),
        ("", AdapterUnavailableError),
    ],
)
def test_what_the_hub_does_not_have_is_missing(
    hub: WebStore, cache: Path, code: str, kind: type[Exception]
) -> None:
    hub.failures["/api/models/org/none"] = 404
    hub.headers["x-error-code"] = code
    with pytest.raises(kind, match="hf://org/none"):
        resolve("hf://org/none", cache, max_bytes=LIMIT)
    with pytest.raises(AdapterMissingError, match=r"adapter_config\.json is missing"):
        resolve("hf://org/name/elsewhere", cache, max_bytes=LIMIT)


def test_the_hub_is_not_waited_for_without_end(
    hub: WebStore, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, model_info = [], HfApi.model_info

    def spy(*args: Any, **options: Any) -> Any:
        asked.append(options["timeout"])
        return model_info(*args, **options)

    monkeypatch.setattr(HfApi, "model_info", spy)
    resolve("hf://org/name", cache, max_bytes=LIMIT)
    assert asked == [30]


def test_a_commit_needs_no_network(hub: WebStore, cache: Path) -> None:
    found = resolve(f"hf://org/name@{hub.commit}", cache, max_bytes=LIMIT)
    hub.seen.clear()
    assert resolve(f"hf://org/name@{hub.commit}", cache, max_bytes=LIMIT) == found
    assert not hub.seen


def test_a_branch_is_asked_each_time(hub: WebStore, cache: Path) -> None:
    old = resolve("hf://org/name", cache, max_bytes=LIMIT)
    hub.seen.clear()
    assert resolve("hf://org/name", cache, max_bytes=LIMIT) == old
    assert len(hub.seen) == 1
    hub.commit = "d" * 40
    hub.put_repo("org/name", FILES | {"adapter_model.safetensors": b"newer"})
    assert (
        contents(resolve("hf://org/name", cache, max_bytes=LIMIT))["adapter_model.safetensors"]
        == b"newer"
    )


def test_a_pull_request_is_a_revision(hub: WebStore, cache: Path) -> None:
    hub.put_repo("org/name", FILES, revision="refs%2Fpr%2F7")
    resolve("hf://org/name@refs/pr/7", cache, max_bytes=LIMIT)
    assert hub.seen[0].startswith("GET /api/models/org/name/revision/refs%2Fpr%2F7")


def test_hub_limits(hub: WebStore, cache: Path) -> None:
    with pytest.raises(AdapterError, match="larger than the limit of 3 bytes"):
        resolve("hf://org/name", cache, max_bytes=3)
    hub.files[f"/org/name/resolve/{hub.commit}/adapter_model.safetensors"] = (
        b" " * 5000
    )  # not what was announced
    with pytest.raises(AdapterError, match=f"larger than the limit of {LIMIT} bytes"):
        resolve("hf://org/name", cache, max_bytes=LIMIT)
    assert not leftovers(cache)


def test_hub_errors_name_the_source(hub: WebStore, cache: Path) -> None:
    with pytest.raises(AdapterUnavailableError, match="hf://org/other"):
        resolve("hf://org/other", cache, max_bytes=LIMIT)
    hub.put_repo("org/pickled", {"adapter_config.json": b"{}", "adapter_model.bin": b""})
    with pytest.raises(
        AdapterError, match=r"hf://org/pickled.*adapter_model\.safetensors is missing"
    ):
        resolve("hf://org/pickled", cache, max_bytes=LIMIT)


# --- the cache --------------------------------------------------------------------------------------


def test_concurrent_fetches(tmp_path: Path, cache: Path) -> None:
    barrier = threading.Barrier(8)
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)

    def fetch(_: int) -> Path:
        barrier.wait()
        return resolve(tmp_path.as_uri(), cache, max_bytes=LIMIT)

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(fetch, range(8)))
    assert [contents(path) for path in found] == [FILES]
    assert not leftovers(cache)


def test_what_a_crash_left_is_swept(cache: Path) -> None:
    (cache / "tmp-crashed").mkdir(parents=True)
    (cache / "tmp-crashed" / "adapter_model.safetensors").write_bytes(b"half")
    store = DiskCache(cache)
    with store.staging() as mine, store.staging() as other:
        assert set(leftovers(cache)) == {mine, other}
    assert not leftovers(cache)


def test_damaged_content_is_fetched_again(hub: WebStore, cache: Path) -> None:
    source = f"hf://org/name@{hub.commit}"
    found = resolve(source, cache, max_bytes=LIMIT)
    (found / "adapter_model.safetensors").write_bytes(b"damaged")
    assert contents(resolve(source, cache, max_bytes=LIMIT)) == FILES


def fill(cache: Path, *sizes: int) -> list[Path]:
    """Contents of these bytes, the first used longest ago."""
    found = []
    for i, size in enumerate(sizes):
        with DiskCache(cache).staging() as directory:
            (directory / "content").mkdir()
            (directory / "content" / "f").write_bytes(bytes([i]) * size)
            found.append(DiskCache(cache).store(directory / "content"))
            DiskCache(cache).remember(f"key {i}", found[-1])
        os.utime(found[-1], (i, i))
    return found


def test_sweep_takes_the_least_recently_used(cache: Path) -> None:
    first, second, third = fill(cache, 100, 100, 100)
    assert sweep(cache, 300, set()) == []
    assert DiskCache(cache).lookup("key 0") == first  # which makes it the latest
    assert sweep(cache, 299, set()) == [second]
    assert DiskCache(cache).lookup("key 1") is None
    assert first.is_dir()
    assert third.is_dir()
    assert not leftovers(cache)


def test_sweep_spares_what_is_kept_or_just_used(cache: Path) -> None:
    first, second, third = fill(cache, 100, 100, 100)
    os.utime(third)
    assert sweep(cache, 0, {first}) == [second]
    assert sweep(cache, 0, set(), grace_s=-10) == [first, third]
    assert sweep(cache / "none", 0, set()) == []
