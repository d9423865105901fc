"""The place that a base is read from: there, a directory, and readable for this process."""

from __future__ import annotations

import os
import stat
from fnmatch import fnmatch
from pathlib import Path

from ..errors import BaseModelError
from ..permissions import why_denied

_READ = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
)
"""Files that transformers reads. What it may not read, it takes as missing."""


def check_source(source: str | os.PathLike[str], trust_hub: bool = False) -> None:
    """Check a base's source before anything is read.

    Raises BaseModelError for what is no directory, unless hub ids are allowed, and for files that
    this process may not read.
    """
    path, problem = Path(source), f"base model {os.fspath(source)!r}"
    try:
        is_directory = stat.S_ISDIR(path.stat().st_mode)
    except PermissionError as error:
        raise BaseModelError(f"{problem} cannot be read: {why_denied(path)}") from error
    except (OSError, ValueError):
        if trust_hub and not path.is_absolute():
            return
        hint = f" (hub ids need trust_hub): there is no {os.path.abspath(path)}"
        raise BaseModelError(
            f"{problem} is not a directory{'' if path.is_absolute() else hint}"
        ) from None
    if not is_directory:
        raise BaseModelError(
            f"{problem} is not a directory, but a file: config.json, safetensors and the tokenizer "
            "are looked for in one"
        )
    _check_files(path, problem)


def _check_files(directory: Path, problem: str) -> None:
    try:
        names = sorted(os.listdir(directory))
    except PermissionError as error:
        raise BaseModelError(f"{problem} cannot be read: {why_denied(directory)}") from error
    for name in names:
        if any(fnmatch(name, pattern) for pattern in _READ):
            _check_file(directory / name, problem)


def _check_file(path: Path, problem: str) -> None:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except PermissionError as error:
        raise BaseModelError(f"{problem}: cannot read {path.name}: {why_denied(path)}") from error
    except OSError:
        return  # such as a link to nothing: transformers knows whether it is needed
