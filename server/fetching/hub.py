"""A base from a hub: hf://org/name, with HF_TOKEN and HF_ENDPOINT as huggingface_hub has them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import huggingface_hub

from lora_runtime import redact

from .errors import FetchError

_SOURCE = re.compile(r"hf://([\w.-]+/[\w.-]+)", re.ASCII)
_FILES = ["*.safetensors", "*.json", "*.model", "*.tiktoken", "*.txt", "*.jinja"]
"""Weights in one format, and the tokenizer."""


def fetch(source: str, directory: Path, revision: str) -> None:
    """Download the files of a base that lie in the repository itself. Raises FetchError, and
    huggingface_hub's own errors."""
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise FetchError(
            f"{redact(source)} must have the form hf://org/name: a token belongs into HF_TOKEN, a "
            "revision into --revision"
        )
    huggingface_hub.snapshot_download(
        match[1],
        revision=revision or None,
        local_dir=directory,
        allow_patterns=_FILES,
        ignore_patterns=["*/*"],
    )
    shutil.rmtree(directory / ".cache", ignore_errors=True)  # of the download
