"""The base's tokenizer, as those of adapters are compared with it."""

from __future__ import annotations

import hashlib
import json
import threading
import weakref
from pathlib import Path
from typing import Any

from .behaviour import added_of, backend_of, cleans_up, methods_of, settings_of
from .parts import declared_class
from .pipeline import PARTS

_CONFIG = "tokenizer_config.json"


class BaseTokenizer:
    """Facts of a base's tokenizer that are read once.

    `pipeline`: it in tokenizers' format, empty for one that runs in Python; `digests`: SHA-256 of
    its files by name, none where it has no directory; `size`: number of its tokens; `parts`:
    descriptions of the pipeline's; `added`: [id, content, flags] of each added token; `name`: of its
    class, and `declared`: of the one that its files name.
    """

    def __init__(self, tokenizer: Any, names: tuple[str, ...]) -> None:
        backend = backend_of(tokenizer)
        self.pipeline = b"" if backend is None else backend.to_str().encode()
        self.size = len(tokenizer)
        self.name, self.declared = type(tokenizer).__name__, ""
        self.methods, self.cleans_up = methods_of(tokenizer), cleans_up(tokenizer)
        self.settings = {} if backend is not None else settings_of(tokenizer)
        self.parts: dict[str, Any] = {}
        self.added: list[list[Any]] = []
        if backend is not None:
            self.parts = {part: _described(getattr(backend, part)) for part in PARTS}
            self.added = added_of(backend)
        self.digests: dict[str, bytes] = {}
        directory = Path(str(getattr(tokenizer, "name_or_path", "") or "/nowhere"))
        for name in names if directory.is_dir() else ():
            try:
                data = (directory / name).read_bytes()
                self.digests[name] = hashlib.sha256(data).digest()
                if name == _CONFIG:
                    self.declared = declared_class(data)
            except (OSError, ValueError):
                continue


def _described(part: Any) -> Any:
    return None if part is None else json.loads(part.__getstate__())


class BaseTokenizers:
    """Facts of each base's tokenizer, as long as that lives."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._lock = threading.Lock()
        self._known: weakref.WeakKeyDictionary[Any, BaseTokenizer] = weakref.WeakKeyDictionary()

    def of(self, tokenizer: Any) -> BaseTokenizer:
        with self._lock:
            if tokenizer not in self._known:
                self._known[tokenizer] = BaseTokenizer(tokenizer, self._names)
            return self._known[tokenizer]
