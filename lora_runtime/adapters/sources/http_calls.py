"""Calls of web servers that adapters come from: no redirect leads out of a source's own prefix,
and no answer's beginning is waited for without end."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Self
from urllib.parse import unquote

import aiohttp
from yarl import URL

from ...errors import AdapterError
from .source_files import named

BEGINNING_S = 30
"""Seconds until all header lines must have come."""


class ResponseInTime(aiohttp.ClientResponse):
    """Response of a server that may send its header lines in drops: aiohttp limits the time to
    each of its bytes alone."""

    async def start(self, connection: Any) -> Self:
        async with asyncio.timeout(BEGINNING_S):
            return await super().start(connection)


def requests_below(source: str) -> type[aiohttp.ClientRequest]:
    """Make the kind of request that a session sends for one source.

    It is made anew for each redirect, with the address as it is about to be asked: whoever runs the
    web server would else choose what this machine asks, behind the list of allowed sources.
    """
    own = URL(source)
    prefix = own.raw_path.rstrip("/") + "/"

    class Request(aiohttp.ClientRequest):
        def __init__(self, method: str, url: URL, *args: Any, **options: Any) -> None:
            path = url.raw_path
            climbs = ".." in re.split(r"[/\\]", unquote(path))
            if url.origin() != own.origin() or not path.startswith(prefix) or climbs:
                # Not where to: that is the other side's word, and may be a secret's place.
                raise AdapterError(f"{named(source)} redirects out of its own prefix: not followed")
            super().__init__(method, url, *args, **options)

    return Request
