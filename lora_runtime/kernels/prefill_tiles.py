"""Tensor-core instructions that prefill tiles are made for: one switch, should a compiler get the
wide ones wrong.

On Hopper tiles of 64 rows and more become `wgmma`, smaller ones `mma`, as on every GPU before.
Reports of wrong results and illegal reads with Triton 3.6 are of the former only (vLLM issue 48590,
Triton issues 10486 and 10573).
"""

from __future__ import annotations

import os

VARIABLE = "LORAMUX_PREFILL_TILES"
KINDS = ("wgmma", "mma")


def chosen(value: str | None) -> str:
    """The kind that `value` names; unset or empty is wgmma. Raises ValueError for what is none."""
    kind = value or KINDS[0]
    if kind not in KINDS:
        raise ValueError(f"{VARIABLE} must be one of {', '.join(KINDS)}, got {kind!r}")
    return kind


KIND = chosen(os.environ.get(VARIABLE))
"""The kind of this process: tiles are part of plans, kernels and graphs, and are not changed
between them."""
MOST_MMA_ROWS = 32
"""Rows of a tile that never become wgmma."""
