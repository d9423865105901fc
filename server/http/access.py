"""Access over HTTP: the token of a call, and the rules that gRPC's calls have."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from starlette.datastructures import Headers

from ..auth.refusals import Refusals, log_admin
from ..auth.rules import NO_TOKEN, Right, refusal
from ..auth.tokens import ANYONE, Caller, TokenFile, bearer_token
from ..tracing.current import note_stranger
from .errors import HttpError


class Access:
    """Access of one server; without a token file everybody may do everything."""

    def __init__(self, tokens: TokenFile | None, on_refused: Callable[[str], None]) -> None:
        self._tokens, self._refusals = tokens, Refusals(on_refused)

    def caller(self, headers: Headers, route: str, peer: str, request_id: str) -> Caller:
        """Find who calls. Raises HttpError without a valid token."""
        if self._tokens is None:
            return ANYONE
        who = self._tokens.caller(bearer_token(headers.getlist("authorization")))
        if who is not None:
            return who
        note_stranger()
        self._refusals.without_token(route, request_id, peer)
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
            self._refusals.outside(who, route, request_id, reason)
            raise HttpError(403, "not_permitted", reason)
        log_admin(who, right, route, names)
