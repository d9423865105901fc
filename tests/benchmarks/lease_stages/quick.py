from __future__ import annotations

from . import two_rows as run  # noqa: F401
