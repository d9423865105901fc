"""Versions of what is installed: to compare, and to skip what needs newer ones."""

from __future__ import annotations

from importlib.metadata import version

import pytest


def version_of(package: str) -> tuple[int, int]:
    """Major and minor version of a package."""
    major, minor, *_ = version(package).split(".")
    return int(major), int(minor)


def need(package: str, major: int, minor: int, what: str) -> None:
    """Skip the test that calls it where an older package is installed."""
    if version_of(package) < (major, minor):
        pytest.skip(f"{what} needs {package} {major}.{minor}")
