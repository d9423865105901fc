"""Figures as a terminal shows them."""

from __future__ import annotations

import pytest

from server.top.words import seconds, size


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (10 << 10, "10 KiB"),
        (1023 << 10, "1.0 MiB"),
        (3 << 30, "3.0 GiB"),
        (1 << 60, "1048576 TiB"),
    ],
)
def test_bytes(num_bytes: int, text: str) -> None:
    assert size(num_bytes) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0 ms"), (0.0834, "83 ms"), (61.25, "61.2 s")])
def test_seconds(value: float, text: str) -> None:
    assert seconds(value) == text
