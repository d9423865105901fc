"""From a source to staged weights, several at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import BaseModel
from ..config import EngineConfig
from ..errors import AdapterError
from ..types import RegisteredVersion
from . import loader
from .disk_cache import sweep
from .source_files import named
from .sources import default_cache_dir, is_remote, resolve
from .update import CheckedAdapter
from .version import VersionDetails

if TYPE_CHECKING:
    from ..kernels.adapter import StagedAdapter


@dataclass
class ReadAdapter:
    """A directory's content, checked; `stage` turns it into what the base computes with."""

    registered: RegisteredVersion
    checked: CheckedAdapter
    base: BaseModel
    lock: threading.Lock

    @property
    def details(self) -> VersionDetails:
        return VersionDetails.of(self.checked)

    def stage(self) -> StagedAdapter:
        # One at a time: staging is arithmetic, and beside it the engine wants the cores.
        with self.lock:
            return self.base.stage_adapter(self.checked.updates)


class Reader:
    """Fetches on as many threads as wanted, so that a slow source delays nobody else's load."""

    def __init__(self, base: BaseModel, config: EngineConfig, in_use: Callable[[], set[Path]]) -> None:
        """`in_use`: directories that the disk cache must keep."""
        self._base, self._config, self._in_use = base, config, in_use
        self._cache = Path(config.adapter_cache_dir) if config.adapter_cache_dir else default_cache_dir()
        self._staging = threading.Lock()
        self._pool = ThreadPoolExecutor(
            config.adapter_load_threads, thread_name_prefix="loramux-load", initializer=_step_back)

    def read(self, source: str, roots: Sequence[Path] = ()) -> ReadAdapter:
        """With `roots`, a directory's files must lie below one of them, links followed.

        Raises AdapterError, BaseMismatchError, AdapterUnavailableError.
        """
        directory = resolve(source, self._cache, max_bytes=self._config.max_adapter_bytes)
        if not is_remote(source):
            return self._read(source, directory, roots)
        read = self._read(source, directory)
        if self._config.adapter_cache_bytes:
            sweep(self._cache, self._config.adapter_cache_bytes, self._in_use() | {directory})
        return read

    def read_again(self, wanted: RegisteredVersion) -> ReadAdapter:
        """From where it was read before, else from its source. Raises AdapterError when both hold other content."""
        if is_remote(wanted.source) and Path(wanted.directory).is_dir():
            # What was fetched is kept by content: most often the store need not be asked again.
            read = self._read(wanted.source, Path(wanted.directory))
            if read.registered.version == wanted.version:
                return read
        read = self.read(wanted.source)
        if read.registered.version != wanted.version:
            raise AdapterError(f"{named(wanted.source)} holds other content than was registered; load it again")
        return read

    def _read(self, source: str, directory: Path, roots: Sequence[Path] = ()) -> ReadAdapter:
        checked = loader.read_adapter(
            directory, self._base, max_bytes=self._config.max_adapter_bytes,
            max_added_tokens=self._config.max_added_tokens, roots=roots)
        registered = RegisteredVersion(checked.version, source, str(directory))
        return ReadAdapter(registered, checked, self._base, self._staging)

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        return self._pool.submit(work)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _step_back() -> None:
    """Let the engine's threads go first where the system can do that for a single thread: Linux."""
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
