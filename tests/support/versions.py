"""Versions of what is installed, to compare."""

from __future__ import annotations

from importlib.metadata import version


def version_of(package: str) -> tuple[int, int]:
    """Major and minor version of a package."""
    major, minor, *_ = version(package).split(".")
    return int(major), int(minor)
