"""Where LoadAdapter may load from: directories below the roots, URLs below the allowed sources."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from loramux.v1 import adapters_pb2 as pb

from . import errors


class Locations:
    """Adapter roots and sources of one server."""

    def __init__(self, roots: Sequence[Path], sources: Sequence[str]) -> None:
        self.roots = [root.resolve() for root in roots]
        self._sources = list(sources)

    def resolve(self, request: pb.LoadAdapterRequest) -> str | Path:
        """What the engine may load. Raises InvalidRequestError, PermissionError."""
        if bool(request.path) == bool(request.source):
            raise errors.invalid("path", "exactly one of path and source is needed")
        return self._url(request.source) if request.source else self._directory(request.path)

    def _directory(self, path: str) -> Path:
        """The real path, symbolic links followed."""
        if "\0" in path:
            raise errors.invalid("path", "must not have a null character")
        if not self.roots:
            raise PermissionError("this server has no adapter root: loading directories over gRPC is switched off")
        real = (self.roots[0] / path).resolve()
        # The files inside may be links of their own: mounted volumes have those, but not to elsewhere.
        for target in (real, *(f.resolve() for f in (real.iterdir() if real.is_dir() else ()))):
            if not any(target.is_relative_to(root) for root in self.roots):
                raise PermissionError("the path is outside the server's adapter roots")
        return real

    def _url(self, url: str) -> str:
        _check_url(url)
        if not any(_is_below(url, prefix) for prefix in self._sources):
            raise PermissionError("the source is outside the server's adapter sources")
        return url


def adapter_id_of(request: pb.LoadAdapterRequest) -> str:
    """The id given, or the last part of path or source, without a revision."""
    if request.adapter_id:
        return request.adapter_id
    if request.source:
        return request.source.rstrip("/").rpartition("/")[2].partition("@")[0]
    return Path(request.path).name


def _check_url(url: str) -> None:
    """Refuses what could leave the allowed prefix, or put a secret where sources are shown."""
    scheme, separator, rest = url.partition("://")
    if not separator or not scheme.isalnum() or not rest or not url.isprintable() or " " in url:
        raise errors.invalid("source", "is not a URL")
    if "::" in url or "\\" in url or "%" in url or any(part in (".", "..", "") for part in rest.strip("/").split("/")):
        raise errors.invalid("source", "must be a plain URL: no chains, escapes, empty or dot parts")
    if "?" in url or "#" in url or "@" in urlsplit(url).netloc:
        raise errors.invalid("source", "must not have credentials, a query or a fragment")


def _is_below(url: str, prefix: str) -> bool:
    """At a part's end: s3://bucket does not allow s3://bucket-of-others, hf://a/b allows hf://a/b@main."""
    return url == prefix or url.startswith((prefix.rstrip("/") + "/", prefix.rstrip("/") + "@"))
