"""Bases' tokenizers, and the program of workers that adapters' are read in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from transformers import AutoTokenizer

from lora_runtime.foreign.process import WORKERS

from ....support.tokenizers import BASES


@pytest.fixture(scope="module")
def workers() -> Iterator[None]:
    """Their program, for all tests of a module."""
    use = WORKERS.use()
    yield
    use.close()


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, workers: None) -> dict[str, Any]:
    found = {}
    for name, make in BASES.items():
        directory = tmp_path_factory.mktemp("base")
        make().save_pretrained(directory)
        found[name] = AutoTokenizer.from_pretrained(directory)
    return found
