from __future__ import annotations

from . import nothing_there as run  # noqa: F401
