"""Pages that are open: the calls of each, as its scripts make them, without a browser.

    python -m benchmarks.page.visitors PORT PAGES

A browser would take the machine that is measured. Each page is a thread with a connection; what it
asks for comes from the page's own scripts.
"""

from __future__ import annotations

import http.client
import json
import re
import sys
import threading
import time
from functools import cache
from urllib.parse import quote

from benchmarks.common.paths import ROOT

_SCRIPTS = ROOT / "server/http/page/scripts"


@cache
def constant(script: str, name: str) -> int:
    """Give a constant of one of the page's scripts."""
    found = re.search(rf"^const {name} = (\d+);", (_SCRIPTS / script).read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{script} has no {name}")
    return int(found[1])


class Page:
    """One page: it has read all adapters, and is scrolled to the table of them."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._in_view = ""
        """Token of the page of adapters that is in view: of the second."""

    def open(self) -> int:
        """Ask for what a page asks for at its start; gives the number of adapters."""
        self.get("/")
        seen, token = 0, ""
        while True:
            told = self.list_adapters(token)
            seen += len(told["adapters"])
            token = told["next_page_token"]
            self._in_view = self._in_view or token
            if not token:
                return seen

    def look(self) -> None:
        """Ask for what runs."""
        self.get("/status")

    def refresh(self) -> None:
        """Ask for the adapters in view again: two pages of them, where one ends and one begins."""
        self.list_adapters("")
        self.list_adapters(self._in_view)

    def list_adapters(self, token: str) -> dict:
        size = constant("pages.js", "SIZE")
        return json.loads(self.get(f"/adapters?page_size={size}&page_token={quote(token)}"))

    def get(self, path: str) -> bytes:
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status} {body[:200]!r}")
        return body

    def stay(self) -> None:
        """Stay open: look and refresh as often as a page does."""
        between, again = constant("main.js", "LOOK_MS"), constant("pages.js", "AGAIN_MS")
        refreshed = time.monotonic()
        while True:
            self.look()
            if time.monotonic() - refreshed >= again / 1000:
                refreshed = time.monotonic()
                self.refresh()
            time.sleep(between / 1000)


def main() -> None:
    port, count = (int(argument) for argument in sys.argv[1:])
    pages = [Page(port) for _ in range(count)]
    for page in pages:
        page.open()
    for page in pages:
        threading.Thread(target=page.stay, daemon=True).start()
        time.sleep(constant("main.js", "LOOK_MS") / 1000 / count)  # not all at the same moment
    print("open", flush=True)
    sys.stdin.read()  # until the benchmark closes it


if __name__ == "__main__":
    main()
