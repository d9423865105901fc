"""Adapters on the Hugging Face hub: `hf://org/name[@revision][/folder]`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import tqdm

from ...errors import AdapterError, AdapterMissingError
from ..peft.shards_index import INDEX, WEIGHTS
from .disk_cache import DiskCache
from .source_files import (
    OPTIONAL,
    REQUIRED,
    Limits,
    check_complete,
    missing_shard,
    named,
    shards_of,
)

_SOURCE = re.compile(
    r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+))?(?:/(?P<folder>.*))?",
    re.ASCII,
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_S = 30


@dataclass(frozen=True)
class HubSource:
    repo: str
    revision: str | None
    """Branch, tag or commit; None is the default branch."""
    folder: str

    def key(self, commit: str) -> str:
        return f"hf://{self.repo}@{commit}/{self.folder}"

    def path(self, name: str) -> str:
        return f"{self.folder}/{name}" if self.folder else name

    def names(self, paths: Iterable[str]) -> list[str]:
        """Names of the files that lie in the folder itself."""
        before = f"{self.folder}/" if self.folder else ""
        inside = (path.removeprefix(before) for path in paths if path.startswith(before))
        return [name for name in inside if "/" not in name]


def parse(source: str) -> HubSource:
    """Parse an hf:// source. Raises AdapterError for another form."""
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise AdapterError(f"{named(source)} must have the form hf://org/name[@revision][/folder]")
    revision = unquote(match["revision"]) if match["revision"] else None
    return HubSource(match["repo"], revision, (match["folder"] or "").strip("/"))


def fetch(source: str, cache: DiskCache, limits: Limits) -> Path:
    """Fetch the adapter's files; gives their directory in the cache.

    A commit that was fetched before needs no network; a branch is asked for. Raises AdapterError
    for what cannot be an adapter, AdapterMissingError, and huggingface_hub's own errors.
    """
    wanted = parse(source)
    if _COMMIT.fullmatch(wanted.revision or "") and (
        hit := cache.lookup(wanted.key(wanted.revision or ""))
    ):
        return hit
    info = _info(source, wanted)
    commit = info.sha
    if commit is None:
        raise AdapterError(f"{named(source)}: the hub names no commit")
    if hit := cache.lookup(wanted.key(commit)):
        return hit
    sizes = {file.rfilename: file.size for file in info.siblings or ()}
    found = {
        name: sizes[wanted.path(name)]
        for name in (*REQUIRED, INDEX, *OPTIONAL)
        if wanted.path(name) in sizes
    }
    if WEIGHTS in found:
        found.pop(INDEX, None)  # nobody reads it then
    check_complete(source, found, wanted.names(sizes))
    for name, size in found.items():
        limits.check(source, name, size)
    with cache.staging() as directory:
        if INDEX in found:
            index = _get(source, wanted, commit, INDEX, directory, limits)
            for name in shards_of(source, index.read_bytes()):
                if wanted.path(name) not in sizes:
                    raise missing_shard(source, name)
                limits.beside(found).check(source, name, sizes[wanted.path(name)])
                found[name] = sizes[wanted.path(name)]
        content = _download(source, wanted, commit, list(found), directory, limits)
        stored = cache.store(content)
    cache.remember(wanted.key(commit), stored)
    return stored


def _info(source: str, wanted: HubSource) -> huggingface_hub.ModelInfo:
    try:
        return huggingface_hub.HfApi().model_info(
            wanted.repo, revision=wanted.revision, files_metadata=True, timeout=_TIMEOUT_S
        )
    except GatedRepoError:  # it is there
        raise
    except (RepositoryNotFoundError, RevisionNotFoundError):
        pass
    raise AdapterMissingError(
        f"{named(source)}: the hub has no such repository or revision, or hides it from the server"
    )


def _download(
    source: str, wanted: HubSource, commit: str, names: list[str], directory: Path, limits: Limits
) -> Path:
    content = directory / "content"
    content.mkdir()
    fetched: dict[str, int | None] = {}
    for name in names:
        path = _get(source, wanted, commit, name, directory, limits.beside(fetched))
        fetched[name] = path.stat().st_size
        path.rename(content / name)
    return content


def _get(
    source: str, wanted: HubSource, commit: str, name: str, directory: Path, limits: Limits
) -> Path:
    path = Path(
        huggingface_hub.hf_hub_download(
            wanted.repo,
            wanted.path(name),
            revision=commit,
            local_dir=directory / "hub",
            tqdm_class=_counter(partial(limits.check, source, name)),
        )
    )
    limits.check(source, name, path.stat().st_size)
    return path


def _counter(check: Callable[[int], None]) -> type[tqdm]:
    """Make a progress bar that shows nothing and ends a download which goes over its limit."""

    class Counter(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **(options | {"disable": True}))
            self._counted = int(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> bool | None:
            self._counted += int(n or 0)
            check(self._counted)
            return super().update(n)

    return Counter
