"""Words for what this process may not read: who is refused what, and what helps."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def why_denied(path: Path) -> str:
    """Say who may not read `path`, and what helps; for errors that name the path themselves."""
    user, blocking = os.geteuid(), _blocking(path)
    if blocking is not None:
        name = blocking.name or "/"
        return f"user {user} may not enter directory {name!r}{_owner(blocking)}: {_help('x')}"
    right = "rx" if path.is_dir() else "r"
    return f"user {user} may not read it{_owner(path)}: {_help(right)}"


def _blocking(path: Path) -> Path | None:
    """The first directory on the way that may not be entered."""
    for place in (*reversed(path.absolute().parents), path.absolute()):
        try:
            place.stat()
        except PermissionError:
            return place.parent
        except OSError:
            break
    return None


def _owner(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""
    mode = stat.S_IMODE(status.st_mode)
    return f" (mode {mode:04o}, user {status.st_uid}, group {status.st_gid})"


def _help(right: str) -> str:
    return (
        f"chmod o+{right}, or chmod g+{right} where the process is in its group (Kubernetes: "
        "fsGroup)"
    )
