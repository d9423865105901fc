"""The route of the page."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

from ..calls import Call
from ..errors import HttpError
from ..route import Route
from .documents import Document, make_page, make_sign_in

_HEADERS = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def page_route() -> Route:
    """Make the route, with its documents."""
    page, sign_in = make_page(), make_sign_in()

    async def show(call: Call) -> Response:
        """Show the page; where a token is needed and there is none, the form that asks for it."""
        try:
            call.authenticate()
        except HttpError as refused:
            return _answer(sign_in, refused.status, refused.headers)
        return _answer(page, 200, {})

    return Route("GET", "/", show, is_open=True)


def _answer(document: Document, status: int, headers: Mapping[str, str]) -> Response:
    policy = {"content-security-policy": document.policy}
    return Response(
        document.body, status, {**_HEADERS, **policy, **headers}, "text/html; charset=utf-8"
    )
