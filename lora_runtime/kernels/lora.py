"""Segmented LoRA: y[rows] += s * B (A x[rows]) for every segment of a packed batch
(arXiv:2106.09685)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LoraSegment:
    """Rows `start:end` take one adapter's low-rank update of one projection.

    `a`: (r, in), `b`: (out, r); `scaling` is the adapter's own times the row's weight for it.
    Segments may overlap: a row under several weighted adapters lies in several segments.
    """

    start: int
    end: int
    a: torch.Tensor
    b: torch.Tensor
    scaling: float


def add_lora_reference(y: torch.Tensor, x: torch.Tensor, segments: Sequence[LoraSegment]) -> None:
    """Add every segment's update into `y` (T, out) in place, from `x` (T, in).

    Each segment runs at its true rank; rows outside all segments are not touched.
    """
    for seg in segments:
        shrunk = x[seg.start : seg.end] @ seg.a.t()
        y[seg.start : seg.end].addmm_(shrunk, seg.b.t(), alpha=seg.scaling)
