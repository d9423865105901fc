"""Reading: from a source to staged weights, several at once."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from ...api.adapters import RegisteredVersion
from ...config import EngineConfig
from ...errors import AdapterError, LoramuxError
from ...foreign.process import WorkLimits
from ..device import AdapterHost, StagedAdapter
from ..peft import loader
from ..peft.read_budget import ReadBudget, ReadShare
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
    share: ReadShare
    """Part of the budget of what is read, until the adapter is staged or let go of."""
    staged: StagedAdapter | None = None

    def __enter__(self) -> ReadAdapter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()
        if error is not None:
            _forget(error)

    def close(self) -> None:
        """Let go of the tensors: an error that is kept somewhere may keep this, too."""
        self.checked = replace(self.checked, updates={})
        self.staged = None
        self.share.give_back()

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
        self._budget = ReadBudget(config.max_adapter_bytes)
        self.threads = LoadThreads(config.adapter_load_threads)

    def close(self) -> None:
        """Start no more readings and end those that read files; never waits."""
        self._budget.close()
        self.threads.close()

    def read(
        self, source: str, roots: Sequence[Path] = (), allow_unknown_fields: bool = False
    ) -> ReadAdapter:
        """Fetch and check an adapter. With `roots`, a directory's files must lie below one of them,
        links followed; that and `allow_unknown_fields` hold now and whenever it is read again.

        Raises AdapterError, BaseMismatchError, AdapterUnavailableError.
        """
        directory = resolve(source, self._cache, max_bytes=self._config.max_adapter_bytes)
        if not is_remote(source):
            return self._read(source, directory, allow_unknown_fields, roots)
        read = self._read(source, directory, allow_unknown_fields)
        if self._config.adapter_cache_bytes:
            sweep(self._cache, self._config.adapter_cache_bytes, self._in_use() | {directory})
        return read

    def read_again(self, version: str, places: Sequence[RegisteredVersion]) -> ReadAdapter:
        """Read it from the first of the places that still holds the version. Raises as `read` when
        none does."""
        failures: list[LoramuxError] = []
        for place in places:
            for again in self._ways(place):
                try:
                    read = again()
                except LoramuxError as error:
                    failures.append(error)
                    continue
                if read.registered.version == version:
                    return read
                read.close()
        try:
            raise (
                failures[0]
                if failures
                else AdapterError(
                    f"{named(places[0].source)} holds other content than was registered; load it again"
                )
            )
        finally:
            failures.clear()  # or the error would hold this frame, and that the error

    def _ways(self, place: RegisteredVersion) -> list[Callable[[], ReadAdapter]]:
        ways: list[Callable[[], ReadAdapter]] = [
            lambda: self.read(
                place.source, [Path(root) for root in place.roots], place.allow_unknown_fields
            )
        ]
        if is_remote(place.source) and Path(place.directory).is_dir():
            # What was fetched is kept by content: most often the store need not be asked again.
            ways.insert(
                0,
                lambda: self._read(place.source, Path(place.directory), place.allow_unknown_fields),
            )
        return ways

    def _read(
        self,
        source: str,
        directory: Path,
        allow_unknown_fields: bool,
        roots: Sequence[Path] = (),
    ) -> ReadAdapter:
        share = self._budget.share()
        try:
            checked = loader.read_adapter(
                directory,
                self._base,
                max_bytes=self._config.max_adapter_bytes,
                max_added_tokens=self._config.max_added_tokens,
                roots=roots,
                share=share,
                tokenizer_limits=WorkLimits(
                    self._config.adapter_tokenizer_timeout_s, self._config.adapter_worker_bytes
                ),
                allow_unknown_fields=allow_unknown_fields,
            )
        except BaseException as error:
            _forget(error)
            share.give_back()
            raise
        kept = tuple(str(root.absolute()) for root in roots)
        registered = RegisteredVersion(
            checked.version, source, str(directory), kept, allow_unknown_fields
        )
        return ReadAdapter(registered, checked, self._base, self._staging, share)


def _forget(error: BaseException) -> None:
    """Clear the frames that an error has come through: they hold what was read, and whoever keeps
    the error would keep that."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__
