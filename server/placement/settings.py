"""What `loramux placement` is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .targets import Target


@dataclass(frozen=True)
class Settings:
    """Settings of a placement; the command line says what each is."""

    targets: Sequence[Target]
    interval_s: float = 2.0
    half_life_s: float = 300.0
    tolerance: float = 0.03
