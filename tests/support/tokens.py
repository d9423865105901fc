"""Token files for tests: the token of a caller is its name with something behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from server.auth.tokens import token_hash


def token_of(name: str) -> str:
    return f"{name}-secret-token"


def bearer(name: str) -> tuple[tuple[str, str], ...]:
    """gRPC metadata of the caller."""
    return (("authorization", f"Bearer {token_of(name)}"),)


def write_tokens(path: Path, **callers: dict[str, Any]) -> Path:
    """A file with these callers and their fields."""
    entries = [
        {"name": name, "token_sha256": token_hash(token_of(name)), **fields}
        for name, fields in callers.items()
    ]
    path.write_text(yaml.safe_dump(entries))
    return path
