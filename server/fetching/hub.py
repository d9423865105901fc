"""A base from a hub: hf://org/name, with HF_TOKEN and HF_ENDPOINT as huggingface_hub has them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import httpx
import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError

from .errors import FetchError

_SOURCE = re.compile(r"hf://([\w.-]+/[\w.-]+)", re.ASCII)
_FILES = ["*.safetensors", "*.json", "*.model", "*.tiktoken", "*.txt", "*.jinja"]
"""Weights in one format, and the tokenizer."""


def fetch(source: str, directory: Path, revision: str) -> None:
    """Download the files of a base that lie in the repository itself. Raises FetchError."""
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise FetchError(f"{source} must have the form hf://org/name")
    try:
        huggingface_hub.snapshot_download(
            match[1],
            revision=revision or None,
            local_dir=directory,
            allow_patterns=_FILES,
            ignore_patterns=["*/*"],
        )
    except (HfHubHTTPError, httpx.HTTPError, FileNotFoundError) as error:
        raise FetchError(f"{source}: {error}") from error
    shutil.rmtree(directory / ".cache", ignore_errors=True)  # of the download
