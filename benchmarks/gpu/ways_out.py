"""What can be done at once should a compiled prefill kernel be wrong on a card: environments to
start processes in."""

from __future__ import annotations

import shutil
from pathlib import Path

_TOOLKIT = Path("/usr/local/cuda/bin/ptxas")


def ways_out() -> dict[str, dict[str, str]]:
    """By name, the one that is wanted most first; which of them fits is shown by the stage
    `stress`.

    The last asks for another assembler, where there is one: reports of illegal reads on Hopper name
    Triton's own (Triton pull request 11156).
    """
    found = {
        "mma tiles": {"LORAMUX_PREFILL_TILES": "mma"},
        "no wgmma at all": {"DISABLE_MMA_V3": "1"},
    }
    ptxas = shutil.which("ptxas") or (str(_TOOLKIT) if _TOOLKIT.exists() else "")
    return found | ({"the toolkit's ptxas": {"TRITON_PTXAS_PATH": ptxas}} if ptxas else {})
