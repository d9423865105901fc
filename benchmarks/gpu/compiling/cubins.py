"""What a compiled kernel takes of a multiprocessor."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack (what was spilled) per thread."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run(
            [Path(knobs.nvidia.cuobjdump.path), "-res-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", told)
    assert found is not None, told
    return int(found[1]), int(found[2])
