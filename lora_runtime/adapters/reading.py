"""From a source to staged weights, several at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import BaseModel
from ..config import EngineConfig
from . import loader
from .sources import default_cache_dir, resolve
from .update import CheckedAdapter
from .version import VersionDetails

if TYPE_CHECKING:
    from ..kernels.adapter import StagedAdapter


@dataclass
class ReadAdapter:
    """A directory's content, checked; `stage` turns it into what the base computes with."""

    checked: CheckedAdapter
    base: BaseModel
    lock: threading.Lock

    @property
    def version(self) -> str:
        return self.checked.version

    @property
    def details(self) -> VersionDetails:
        return VersionDetails.of(self.checked)

    def stage(self) -> StagedAdapter:
        # One at a time: staging is arithmetic, and beside it the engine wants the cores.
        with self.lock:
            return self.base.stage_adapter(self.checked.updates)


class Reader:
    """Fetches on as many threads as wanted, so that a slow source delays nobody else's load."""

    def __init__(self, base: BaseModel, config: EngineConfig) -> None:
        self._base, self._config = base, config
        self._cache = Path(config.adapter_cache_dir) if config.adapter_cache_dir else default_cache_dir()
        self._staging = threading.Lock()
        self._pool = ThreadPoolExecutor(
            config.adapter_load_threads, thread_name_prefix="loramux-load", initializer=_step_back)

    def read(self, source: str) -> ReadAdapter:
        """Raises AdapterError, BaseMismatchError, AdapterUnavailableError."""
        directory = resolve(source, self._cache, max_bytes=self._config.max_adapter_bytes)
        checked = loader.read_adapter(
            directory, self._base, max_bytes=self._config.max_adapter_bytes,
            max_added_tokens=self._config.max_added_tokens)
        return ReadAdapter(checked, self._base, self._staging)

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        return self._pool.submit(work)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _step_back() -> None:
    """Let the engine's threads go first where the system can do that for a single thread: Linux."""
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
