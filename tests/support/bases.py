"""A base that many engines are started on, opened once: to open it takes most of a tiny engine's start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lora_runtime import base_model
from lora_runtime.backends.backend import Backend
from lora_runtime.backends.cpp.backend import CppBackend
from lora_runtime.backends.torch.backend import TorchBackend
from lora_runtime.model.files import BaseFiles

_open = base_model.open_base
_shared: set[str] = set()
_opened: dict[str, Backend] = {}
_within = 0


def share(base: Path) -> Path:
    """`base`, which nobody changes, may be opened once for all."""
    _shared.add(str(base))
    return base


@contextmanager
def opened_once() -> Iterator[None]:
    """Engines that are started meanwhile share what is frozen, if their settings of the base are the same."""
    global _within
    _within += 1
    base_model.open_base = _open_once
    try:
        yield
    finally:
        _within -= 1
        if not _within:
            base_model.open_base = _open


def _open_once(files: BaseFiles) -> Backend:
    if files.source not in _shared:
        return _open(files)
    key = f"{files.source} {files.lora} {files.config}"
    backend = _opened.get(key) or _open(files)
    if type(backend) in (CppBackend, TorchBackend):  # others have slots, or processes
        _opened[key] = backend
    return backend
