"""Every client as it is, on SmolLM2, where `make clients` has installed them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .benches import BENCHES
from .clients import CHECKS, READY, Bench, run
from .server import MODEL, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not READY.exists(), reason="the clients are not installed: make clients"),
    pytest.mark.skipif(not MODEL.exists(), reason="no base: make base"),
]
CLIENTS: dict[str, str | Bench] = {**CHECKS, **BENCHES}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("server") / "log") as url:
        yield url


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_gets_what_it_asks_for(name: str, url: str, tmp_path: Path) -> None:
    assert not run(CLIENTS[name], url, tmp_path).problems
