"""Reading: from a source to staged weights, several at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...api.adapters import RegisteredVersion
from ...config import EngineConfig
from ...errors import AdapterError, LoramuxError
from ...foreign.process import WorkLimits
from ..device import AdapterHost, StagedAdapter
from ..peft import loader
from ..peft.update import CheckedAdapter
from ..sources.disk_cache import sweep
from ..sources.source_files import named
from ..sources.sources import default_cache_dir, is_remote, resolve
from .load_threads import LoadThreads
from .version import VersionDetails


@dataclass
class ReadAdapter:
    """A directory's content, checked; `stage` turns it into what the base computes with."""

    registered: RegisteredVersion
    checked: CheckedAdapter
    base: AdapterHost
    lock: threading.Lock
    """For staging one adapter at a time: it is arithmetic, and beside it the engine wants the
    cores."""
    staged: StagedAdapter | None = None

    @property
    def details(self) -> VersionDetails:
        return VersionDetails.of(self.checked)

    def stage(self) -> StagedAdapter:
        """The staged adapter, made by the first call. Raises AdapterError, AdapterCapacityError."""
        if self.staged is None:
            with self.lock:
                self.staged = self.base.stage_adapter(self.checked.updates)
        return self.staged


class Reader:
    """Fetches on as many threads as wanted, so that a slow source delays nobody else's load."""

    def __init__(
        self, base: AdapterHost, config: EngineConfig, in_use: Callable[[], set[Path]]
    ) -> None:
        """`in_use`: directories that the disk cache must keep."""
        self._base, self._config, self._in_use = base, config, in_use
        self._cache = (
            Path(config.adapter_cache_dir) if config.adapter_cache_dir else default_cache_dir()
        )
        self._staging = threading.Lock()
        self.threads = LoadThreads(config.adapter_load_threads)

    def read(self, source: str, roots: Sequence[Path] = ()) -> ReadAdapter:
        """Fetch and check an adapter. With `roots`, a directory's files must lie below one of them,
        links followed.

        Raises AdapterError, BaseMismatchError, AdapterUnavailableError.
        """
        directory = resolve(source, self._cache, max_bytes=self._config.max_adapter_bytes)
        if not is_remote(source):
            return self._read(source, directory, roots)
        read = self._read(source, directory)
        if self._config.adapter_cache_bytes:
            sweep(self._cache, self._config.adapter_cache_bytes, self._in_use() | {directory})
        return read

    def read_again(self, version: str, places: Sequence[RegisteredVersion]) -> ReadAdapter:
        """Read it from the first of the places that still holds the version. Raises as `read` when
        none does."""
        failure: LoramuxError | None = None
        for place in places:
            for again in self._ways(place):
                try:
                    read = again()
                except LoramuxError as error:
                    failure = failure or error
                    continue
                if read.registered.version == version:
                    return read
        raise failure or AdapterError(
            f"{named(places[0].source)} holds other content than was registered; load it again"
        )

    def _ways(self, place: RegisteredVersion) -> list[Callable[[], ReadAdapter]]:
        ways: list[Callable[[], ReadAdapter]] = [lambda: self.read(place.source)]
        if is_remote(place.source) and Path(place.directory).is_dir():
            # What was fetched is kept by content: most often the store need not be asked again.
            ways.insert(0, lambda: self._read(place.source, Path(place.directory)))
        return ways

    def _read(self, source: str, directory: Path, roots: Sequence[Path] = ()) -> ReadAdapter:
        checked = loader.read_adapter(
            directory,
            self._base,
            max_bytes=self._config.max_adapter_bytes,
            max_added_tokens=self._config.max_added_tokens,
            roots=roots,
            tokenizer_limits=WorkLimits(
                self._config.adapter_tokenizer_timeout_s, self._config.adapter_worker_bytes
            ),
        )
        registered = RegisteredVersion(checked.version, source, str(directory))
        return ReadAdapter(registered, checked, self._base, self._staging)
