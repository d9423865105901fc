"""Locations that LoadAdapter may load from: directories below roots, URLs below allowed sources."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from loramux.v1 import adapters_pb2 as pb

from lora_runtime import ADAPTER_FILES, AdapterError, InvalidRequestError

_MAX_LENGTH = 4096
"""Limit of a path or a URL, in characters."""
_HUB = "hf://"
_HUB_ID = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}(@[\w./-]{1,128})?", re.ASCII)
_REVISION = re.compile(r"@(?:refs/(?:pr|convert)/[^/]+|[^/]+)")
_REFS = re.compile(r"@refs(/|\Z)")
"""Pattern of refs: pull requests are among these, and anyone may open one."""


class _OutsideError(PermissionError):
    """Error of this module, not the operating system's: its text is for callers."""


class Locations:
    """Adapter roots and sources of one server."""

    def __init__(self, roots: Sequence[Path], sources: Sequence[str]) -> None:
        self.roots = [root.resolve() for root in roots]
        self._sources = list(sources)

    def resolve(self, request: pb.LoadAdapterRequest) -> str | Path:
        """Resolve what the engine may load. Raises InvalidRequestError, PermissionError."""
        if bool(request.path) == bool(request.source):
            raise InvalidRequestError.of("path", "exactly one of path and source is needed")
        for field in ("path", "source"):
            if len(getattr(request, field)) > _MAX_LENGTH:
                raise InvalidRequestError.of(field, f"must have at most {_MAX_LENGTH} characters")
        return self._url(request.source) if request.source else self._directory(request.path)

    def request(self, adapter_id: str, text: str) -> pb.LoadAdapterRequest:
        """Make a request of a location in one text: a path or a URL; also a hub id without its
        scheme, where hf:// allows it and the first root has no such path."""
        url = text if "://" in text else _HUB + text
        if url == text or (
            _HUB_ID.fullmatch(text)
            and any(_is_below(url, prefix) for prefix in self._sources)
            and not (self.roots and (self.roots[0] / text).exists())
        ):
            return pb.LoadAdapterRequest(adapter_id=adapter_id, source=url)
        return pb.LoadAdapterRequest(adapter_id=adapter_id, path=text)

    def below(self, name: str) -> Iterator[str | Path]:
        """Give what `name`, a plain path, may be: the directories of adapters below roots, the URLs
        below sources. Raises AdapterError for one that cannot be used."""
        for root in self.roots:
            try:
                if _is_there(root / name / ADAPTER_FILES[0]):
                    yield self._directory(str(root / name))
            except (PermissionError, InvalidRequestError) as error:
                raise AdapterError(str(error)) from None
        for prefix in self._sources:
            url = prefix + name if prefix.endswith("://") else f"{prefix.rstrip('/')}/{name}"
            if not url.startswith(_HUB) or "/" in url.removeprefix(_HUB):  # no organisation alone
                yield url

    def _directory(self, path: str) -> Path:
        """Check a directory; gives the real path, symbolic links followed. Raises as `resolve`."""
        if "\0" in path:
            raise InvalidRequestError.of("path", "must not have a null character")
        if not self.roots:
            raise PermissionError(
                "this server has no adapter root: loading directories is switched off"
            )
        try:
            real = Path(os.path.realpath(self.roots[0] / path))  # reads links, and fails for none
            self._check_below(real)
            # The files inside may be links of their own: mounted volumes have those, but not to
            # elsewhere.
            for file in os.listdir(real) if real.is_dir() else ():
                self._check_below(Path(os.path.realpath(real / file)))
        except _OutsideError:
            raise
        except PermissionError:
            raise InvalidRequestError.of(
                "path", "cannot be read: the server's user has no permission"
            ) from None
        except (OSError, ValueError):  # their texts have the real path
            raise InvalidRequestError.of("path", "cannot be read") from None
        return real

    def _check_below(self, real: Path) -> None:
        if not any(real.is_relative_to(root) for root in self.roots):
            raise _OutsideError("the path is outside the server's adapter roots")

    def _url(self, url: str) -> str:
        _check_url(url)
        if not any(_is_below(url, prefix) for prefix in self._sources):
            raise PermissionError("the source is outside the server's adapter sources")
        return url


def _is_there(path: Path) -> bool:
    """Whether a file is there. Raises PermissionError where that cannot be seen."""
    try:
        return path.exists()
    except PermissionError:
        raise
    except OSError:  # such as a name that is too long
        return False


def adapter_id_of(request: pb.LoadAdapterRequest) -> str:
    """Give the request's id, or the last part of path or source, without a revision."""
    if request.adapter_id:
        return request.adapter_id
    if request.source:
        source = request.source.rstrip("/")
        if source.startswith(_HUB):
            source = _REVISION.sub("", source, count=1)  # it may have parts of its own
        return source.rpartition("/")[2].partition("@")[0]
    return Path(request.path).name


def _check_url(url: str) -> None:
    """Refuse what could leave the allowed prefix, or put a secret where sources are shown."""
    scheme, separator, rest = url.partition("://")
    if not separator or not scheme.isalnum() or not rest or not url.isprintable() or " " in url:
        raise InvalidRequestError.of("source", "is not a URL")
    if (
        "::" in url
        or "\\" in url
        or "%" in url
        or any(part in (".", "..", "") for part in rest.strip("/").split("/"))
    ):
        raise InvalidRequestError.of(
            "source", "must be a plain URL: no chains, escapes, empty or dot parts"
        )
    try:
        authority = urlsplit(url).netloc
    except ValueError:  # brackets that are no IPv6 address
        raise InvalidRequestError.of("source", "is not a URL") from None
    if "?" in url or "#" in url or "@" in authority:
        raise InvalidRequestError.of("source", "must not have credentials, a query or a fragment")


def _is_below(url: str, prefix: str) -> bool:
    """True if `url` lies below `prefix`, at a part's end: s3://bucket does not allow
    s3://bucket-of-others, hf://a/b allows hf://a/b@main."""
    prefix = prefix.rstrip("/")
    rest = url.removeprefix(prefix)
    if rest == url:
        return False
    if not url.startswith(_HUB) or not rest or "@" not in rest:
        return rest == "" or rest.startswith("/")
    # The prefix names another revision, or none of these.
    if url.count("@") > 1 or _REFS.search(rest):
        return False
    return rest.startswith("/") or prefix.removeprefix(_HUB).count("/") == 1
