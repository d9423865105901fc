"""What is told of calls that are refused, and of admins': the same for every front."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import structlog

from lora_runtime import MAX_ID_LENGTH

from ..logs import limited
from .rules import Right
from .tokens import Caller

log = structlog.get_logger("loramux.server")


class Refusals:
    """Refusals for their token or its scope: each is counted by its reason, and logged."""

    def __init__(self, on_refused: Callable[[str], None]) -> None:
        self._on_refused = on_refused

    def without_token(self, method: str, request_id: str, peer: str) -> None:
        self._tell(
            "unauthenticated",
            "unauthenticated",
            method=method,
            request_id=request_id,
            peer=peer,
            reason="no valid token",
        )

    def outside(self, who: Caller, method: str, request_id: str, reason: str) -> None:
        """Tell of a call outside its caller's rights or scope."""
        self._tell(
            "permission_denied",
            f"permission_denied: {who.name}",  # one caller's flood hides no other's
            method=method,
            request_id=request_id,
            caller=who.name,
            reason=reason,
        )

    def _tell(self, counted: str, key: str, **fields: Any) -> None:
        self._on_refused(counted)
        limited("call refused", key, **fields)


def log_admin(who: Caller, right: Right, method: str, adapters: Iterable[str]) -> None:
    """Log a call that changes adapters."""
    if right is Right.ADMIN:
        names = [name[:MAX_ID_LENGTH] for name in adapters]
        log.info("admin call", method=method, caller=who.name, adapters=names)
