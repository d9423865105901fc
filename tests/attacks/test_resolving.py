"""Names made up, of adapters that a server brings in when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .arena import Arena, expect
from .attackers import Attackers
from .calls import answer, asked
from .fronts import GRPC, HTTP, Front, both
from .ground import Ground
from .redirects import Redirects
from .server import ServerProcess

pytestmark = pytest.mark.attacks


@pytest.fixture(scope="module")
def resolving(ground: Ground, attackers: Attackers, redirects: Redirects) -> Iterator[Arena]:
    places = ("--resolve-adapters", "--adapter-source", redirects.allowed)
    arena = Arena(lambda: ground.serve(*places), attackers)
    yield arena
    arena.end()


@both
def test_a_flood_of_names(
    resolving: Arena, front: Front, ground: Ground, redirects: Redirects
) -> None:
    """Each is asked for at a store; who names what is there is served meanwhile."""
    requests = [asked(adapter_id=f"mal-{front}-{i}") for i in range(400)]
    there = [ground.adapter(f"late-{front}-{i}", lambda *_: None) for i in range(2)]

    def attack(server: ServerProcess) -> str:
        begun = front.start(resolving.attackers, server, requests, "attacker")
        for name, innocent in zip(there, (GRPC, HTTP), strict=True):
            answer(resolving, server, "sharer", innocent, adapter_id=name)
        # HTTP takes 64 connections of an address; what none is left for is refused without a call.
        return expect(begun.result(60), "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNAVAILABLE")

    resolving.withstand(front.named("resolver: 400 names made up"), attack)
    assert not redirects.inner_seen


@both
def test_a_broken_adapter_is_read_once(resolving: Arena, front: Front, ground: Ground) -> None:
    def broken(directory: Path, _: Ground) -> None:
        (directory / "adapter_model.safetensors").write_bytes(b"\xff" * (8 << 20))

    name = ground.adapter(f"mal-broken-{front}", broken)

    def attack(server: ServerProcess) -> str:
        requests = [asked(adapter_id=name)] * 40
        outcomes = front.send(resolving.attackers, server, requests, "attacker")
        assert not any(str(ground.root) in one.details for one in outcomes)
        failed = server.log.read_text().count('"adapter failed"')
        assert failed <= 2, f"read {failed} times"
        return expect(outcomes, "INVALID_ARGUMENT")

    resolving.withstand(front.named("resolver: a broken adapter, 40 times"), attack)


PLACES = ["mal-/../good", "mal-x/../../tokens.yaml", "/etc", "mal-%2e%2e", "mal-\0"]


@both
def test_names_that_lead_elsewhere(resolving: Arena, front: Front) -> None:
    def attack(server: ServerProcess) -> str:
        requests = [asked(adapter_id=name) for name in PLACES]
        outcomes = front.send(resolving.attackers, server, requests, "attacker")
        return expect(outcomes, "NOT_FOUND", "PERMISSION_DENIED")

    resolving.withstand(front.named("resolver: names that lead elsewhere"), attack)
