"""The two documents: put together once of the files here, each with the policy that keeps
everything else out of it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

_FILES = files(__package__)
_PAGE_STYLES = ("theme.css", "page.css", "slots.css", "adapters.css", "playground.css")
_PAGE_SCRIPTS = (
    "dom.js",
    "server.js",
    "now.js",
    "slots.js",
    "pages.js",
    "adapters.js",
    "stream.js",
    "playground.js",
    "main.js",
)
"""In the order in which they use each other."""
_RULES = (
    "default-src 'none'",
    "connect-src 'self'",
    "img-src data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
)
"""Rules for both: nothing from other hosts, no frames around them, and no text that becomes markup."""


@dataclass(frozen=True)
class Document:
    """Document without a fetch of anything but data, and its Content-Security-Policy."""

    body: bytes
    policy: str


def make_page() -> Document:
    """Make the page itself."""
    style, script = _page_parts()
    return _document("page.html", style, script, _policy([style], [script], "'none'"))


def make_sign_in() -> Document:
    """Make the form, which puts the page in its own place.

    The policy of the form stays then, so that it lets the parts of both run.
    """
    page_style, page_script = _page_parts()
    style, script = _style("theme.css", "sign_in.css"), _script("sign_in.js")
    policy = _policy([style, page_style], [script, page_script], "loramux")
    return _document("sign_in.html", style, script, policy)


def _page_parts() -> tuple[str, str]:
    return _style(*_PAGE_STYLES), _script(*_PAGE_SCRIPTS)


def _document(name: str, style: str, script: str, policy: str) -> Document:
    text = _joined(_FILES, [name])
    for tag, content in (("style", style), ("script", script)):
        text = text.replace(f"<{tag}></{tag}>", f"<{tag}>{content}</{tag}>")
    return Document(text.encode(), policy)


def _style(*names: str) -> str:
    return _joined(_FILES / "styles", names)


def _script(*names: str) -> str:
    """Put files together as one script without names that others see."""
    return f'"use strict";\n(() => {{\n{_joined(_FILES / "scripts", names)}}})();\n'


def _joined(folder: Traversable, names: Sequence[str]) -> str:
    return "".join((folder / name).read_text(encoding="utf-8") for name in names)


def _policy(styles: Sequence[str], scripts: Sequence[str], types: str) -> str:
    own = (
        f"style-src {_hashes(styles)}",
        f"script-src {_hashes(scripts)}",
        f"trusted-types {types}",
    )
    return "; ".join((*_RULES, *own))


def _hashes(texts: Sequence[str]) -> str:
    hashes = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(one).decode()}'" for one in hashes)
