"""Which parameters of a test run only in `make test-slow`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(quick: Iterable[Any], every: Iterable[Any]) -> list[Any]:
    """`every` parameter, those that are not `quick` marked slow."""
    kept, every = set(quick), list(every)
    assert kept <= set(every), f"{kept.difference(every)} are no parameters"
    return [
        value if value in kept else pytest.param(value, marks=pytest.mark.slow) for value in every
    ]
