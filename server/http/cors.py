"""Calls from pages of other origins, which browsers make where the server says that they may (CORS)."""

from __future__ import annotations

from collections.abc import Collection

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

_SHOWN = ("x-request-id", "retry-after", "retry-after-ms", "x-should-retry")
"""Headers of answers that clients in a page read."""


def for_browsers(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    """Let pages of `origins` call `app`: with a token in a header, as there are no cookies."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST"),
        allow_headers=("*",),
        allow_private_network=True,
        expose_headers=_SHOWN,
    )
