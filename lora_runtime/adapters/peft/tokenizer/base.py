"""The base's tokenizer, as those of adapters are compared with it."""

from __future__ import annotations

import hashlib
import threading
import weakref
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer


class BaseTokenizer:
    """Facts of a base's tokenizer that are read once.

    `pipeline`: it in tokenizers' format, empty for one that runs in Python; `digests`: SHA-256 of
    its files by name, none where it has no directory; `size`: number of its tokens.
    """

    def __init__(self, tokenizer: Any, names: tuple[str, ...]) -> None:
        backend = backend_of(tokenizer)
        self.pipeline = b"" if backend is None else backend.to_str().encode()
        self.size = len(tokenizer)
        self.digests: dict[str, bytes] = {}
        directory = Path(str(getattr(tokenizer, "name_or_path", "") or "/nowhere"))
        for name in names if directory.is_dir() else ():
            try:
                self.digests[name] = hashlib.sha256((directory / name).read_bytes()).digest()
            except OSError:
                continue


def backend_of(tokenizer: Any) -> Tokenizer | None:
    """The tokenizers library's part of a tokenizer; None for one that runs in Python."""
    backend = getattr(tokenizer, "_tokenizer", None)
    return backend if isinstance(backend, Tokenizer) else None


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
