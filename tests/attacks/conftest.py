"""The servers under attack, and the table at the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from . import report
from .arena import Arena
from .attackers import Attackers
from .ground import Ground
from .redirects import Redirects, redirecting

TEMPLATE_S = 0.5
"""What an adapter's template may take: there are many that take all of it."""
TOKENIZER_S = 1
"""What its tokenizer may take to load, and its template to tell what ends a turn."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--attacks-json", type=Path, help="write the attacks' table there too")
    parser.addoption("--fuzz-examples", type=int, default=5, help="requests made for each page")


def pytest_configure(config: pytest.Config) -> None:
    if path := config.getoption("--attacks-json", None):
        report.keep_in(path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let attacks on the same server follow each other: one runs at a time."""
    turns = ("torch_arena", "no_arena")

    def turn(item: pytest.Item) -> int:
        names = getattr(item, "fixturenames", ())
        return next((i for i, name in enumerate(turns, 1) if name in names), 0)

    items.sort(key=turn)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not report.ROWS:
        return
    terminalreporter.section("attacks")
    for line in report.table(report.ROWS):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def fuzz_examples(request: pytest.FixtureRequest) -> int:
    """Requests that are made for each page from the API's description."""
    return request.config.getoption("--fuzz-examples")


@pytest.fixture(scope="session")
def attackers() -> Iterator[Attackers]:
    pool = Attackers()
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """The base, the adapters' root and the token file of all servers."""
    return Ground.make(tmp_path_factory.mktemp("attacks"))


@pytest.fixture(scope="session")
def redirects() -> Iterator[Redirects]:
    with redirecting() as found:
        yield found


@pytest.fixture(scope="session")
def arena(ground: Ground, attackers: Attackers, redirects: Redirects) -> Iterator[Arena]:
    """A server with tokens, on the C++ kernels where they run; it keeps no host copies."""
    limits: tuple[object, ...] = ("--adapter-host-bytes", 0)
    limits += ("--chat-template-timeout-s", TEMPLATE_S)
    limits += ("--adapter-tokenizer-timeout-s", TOKENIZER_S)
    places = ("--state-file", ground.state(), "--adapter-source", redirects.allowed)
    arena = Arena(lambda: ground.serve(*limits, *places), attackers)
    yield arena
    arena.end()


@pytest.fixture(scope="session")
def torch_arena(ground: Ground, attackers: Attackers) -> Iterator[Arena]:
    """A server on torch's kernels, which looks for names that it does not know."""
    flags = ("--kernels", "torch", "--resolve-adapters")
    arena = Arena(lambda: ground.serve(*flags), attackers, "tokens")
    yield arena
    arena.end()
