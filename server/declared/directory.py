"""The watched directory: each subdirectory with an adapter_config.json is an adapter."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from lora_runtime import ADAPTER_FILES

from .files import Settling, snapshot
from .types import Declared, Reading

_CONFIG = ADAPTER_FILES[0]


class WatchedDirectory:
    """Reader of one directory, again and again; keeps its last good state."""

    def __init__(
        self, path: Path, settle_s: float, allow_unknown_fields: Collection[str] = ()
    ) -> None:
        """Take the path. `allow_unknown_fields`: names for which Engine.load_adapter gets it."""
        self._path, self._allow_unknown = path, frozenset(allow_unknown_fields)
        self._settling = Settling(settle_s)
        self._adapters: dict[str, Declared] = {}
        self._known = False

    def read(self) -> Reading:
        """Read the directory.

        Names with a leading dot are left out: Kubernetes keeps a volume's versions behind them.
        """
        problem = ""
        try:
            paths = [path for path in sorted(self._path.iterdir()) if not path.name.startswith(".")]
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
        else:
            odd = [path.name for path in paths if not path.name.isprintable()]
            problem = f"{odd[0]!r} cannot be an adapter's name" if odd else ""
            found = [self._declare(path) for path in paths if path.name.isprintable()]
            self._adapters = {declared.name: declared for declared in found if declared is not None}
            self._settling.end_look()
            self._known = True
        return Reading(str(self._path), self._adapters, problem=problem, known=self._known)

    def _declare(self, directory: Path) -> Declared | None:
        # The path as it is, not where its links lead: a volume's old version goes when it is
        # swapped.
        name, source = directory.name, str(directory)
        try:
            if not (directory / _CONFIG).exists():
                return None
            files = snapshot(directory)
        except FileNotFoundError:  # removed since
            return None
        except OSError as error:
            return Declared(
                name, source, unsettled=f"the directory cannot be read: {error.strerror}"
            )
        return Declared(
            name,
            source,
            allow_unknown_fields=name in self._allow_unknown,
            fingerprint=files,
            unsettled=self._settling.reason(directory, files),
        )
