"""A file that comes over HTTP: from where it may come, how large it may be, how slow."""

from __future__ import annotations

import http.client
import time
import urllib.request
from typing import IO, Any
from urllib.parse import urlsplit

from lora_runtime import redact

from ..tls import is_loopback
from .errors import FetchError

CHUNK = 1 << 20
_TIMEOUT_S = 60
_SLOWEST = 16 << 10
"""Bytes per second that it has at least, but for its first minute, as adapters have."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Goes where a server sends it, over HTTP alone."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise FetchError(f"{redact(req.full_url)} redirects to neither http nor https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Proxies(urllib.request.ProxyHandler):
    """The environment's proxies, but for this machine: a proxy would see what is for it alone."""

    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> Any:
        if is_loopback(urlsplit(req.full_url).hostname or ""):
            return None
        return super().proxy_open(req, proxy, type)


def opened(request: urllib.request.Request) -> Any:
    """Open what a request asks for. Raises FetchError, and what urllib has for errors."""
    return urllib.request.build_opener(_Redirects, _Proxies).open(request, timeout=_TIMEOUT_S)


class Download:
    """What a server sends, to be read up to its announced size. Raises FetchError where it is too
    large for a disk with `free` bytes, comes in drops, or ends early."""

    def __init__(self, name: str, answer: http.client.HTTPResponse, free: int) -> None:
        self._name, self._answer = name, answer
        self._whole = answer.length
        # What does not say its size leaves room to be unpacked.
        self._most = free // 2 if self._whole is None else free
        self._check(self._whole or 0)
        self._size, self._began = 0, time.monotonic()

    def read(self, size: int = CHUNK, /) -> bytes:
        left = size if self._whole is None else min(size, self._whole - self._size)
        part = self._answer.read1(left) if left else b""
        self._size += len(part)
        self._check(self._size)
        if self._size < _SLOWEST * (time.monotonic() - self._began - _TIMEOUT_S):
            raise FetchError(f"{self._name} comes with less than {_SLOWEST} bytes a second")
        if left and not part and self._whole is not None:
            raise FetchError(f"{self._name} ends after {self._size} of {self._whole} bytes")
        return part

    def _check(self, size: int) -> None:
        if size > self._most:
            raise FetchError(f"{self._name} is larger than the {self._most} bytes there are for it")
