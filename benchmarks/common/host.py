"""The machine that figures were measured on."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def cpu_name() -> str:
    """As the processor calls itself."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return names[0] if names else platform.processor()


def cores() -> list[int]:
    """Those that this process may use."""
    return sorted(os.sched_getaffinity(0))
