"""Access over HTTP: the token of a call, and the rules that gRPC's calls have."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog
from starlette.datastructures import Headers

from lora_runtime import MAX_ID_LENGTH

from ..auth.rules import NO_TOKEN, Right, refusal
from ..auth.tokens import ANYONE, Caller, TokenFile, bearer_token
from ..logs import limited
from .errors import HttpError

log = structlog.get_logger("loramux.server")


class Access:
    """Access of one server; without a token file everybody may do everything."""

    def __init__(self, tokens: TokenFile | None, on_refused: Callable[[str], None]) -> None:
        self._tokens, self._on_refused = tokens, on_refused

    def caller(self, headers: Headers, route: str, peer: str, request_id: str) -> Caller:
        """Find who calls. Raises HttpError without a valid token."""
        if self._tokens is None:
            return ANYONE
        who = self._tokens.caller(bearer_token(headers.getlist("authorization")))
        if who is not None:
            return who
        self._on_refused("unauthenticated")
        limited(
            "call refused",
            "unauthenticated",
            request_id=request_id,
            method=route,
            peer=peer,
            reason="no valid token",
        )
        asks = {"www-authenticate": "Bearer"}
        raise HttpError(401, "invalid_api_key", NO_TOKEN, headers=asks)

    def check(
        self,
        who: Caller,
        right: Right,
        adapters: Iterable[str],
        priority: int,
        route: str,
        request_id: str,
    ) -> None:
        """Check what a caller may do. Raises HttpError."""
        names = list(adapters)
        if reason := refusal(who, right, names, priority):
            self._on_refused("permission_denied")
            limited(
                "call refused",
                f"permission_denied: {who.name}",  # one caller's flood hides no other's
                request_id=request_id,
                method=route,
                caller=who.name,
                reason=reason,
            )
            raise HttpError(403, "not_permitted", reason)
        if right is Right.ADMIN:
            told = [name[:MAX_ID_LENGTH] for name in names]
            log.info("admin call", method=route, caller=who.name, adapters=told)
