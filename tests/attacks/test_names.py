"""Names that nobody has, on a server that looks for them below its roots and brings in what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from .arena import Arena, expect
from .calls import answer, asked
from .fronts import GRPC, HTTP, Front, both
from .ground import Ground
from .server import ServerProcess

pytestmark = pytest.mark.attacks

FLOOD = 500
LEADING_OUT = (
    "..",
    "../base",
    "/etc",
    "good/../../base",
    "good/..",
    "./good",
    "good\0",
    "good/",
    "~root",
    "mal-/../good",
    "mal-x/../../tokens.yaml",
    "mal-%2e%2e",
    "mal-\0",
)
OTHERS = ("*", "\u202egood", "good\n", "a" * 255, "%2e%2e", "file:///etc", "hf://x/y", "good@1")


@both
def test_a_flood_of_names(torch_arena: Arena, front: Front, ground: Ground) -> None:
    """Who names what is there is served meanwhile."""
    requests = [asked(adapter_id=f"mal-{front}-{i}") for i in range(FLOOD)]
    there = [ground.adapter(f"late-{front}-{i}", lambda *_: None) for i in range(2)]

    def attack(server: ServerProcess) -> str:
        begun = front.start(torch_arena.attackers, server, requests, "attacker")
        for name, innocent in zip(there, (GRPC, HTTP), strict=True):
            answer(torch_arena, server, "sharer", innocent, adapter_id=name)
        return expect(begun.result(60), "NOT_FOUND", *front.over[1:])

    torch_arena.withstand(front.named(f"names: {FLOOD} that nobody has"), attack)


@both
def test_a_broken_adapter_is_read_once(torch_arena: Arena, front: Front, ground: Ground) -> None:
    def broken(directory: Path, _: Ground) -> None:
        (directory / "adapter_model.safetensors").write_bytes(b"\xff" * (8 << 20))

    name = ground.adapter(f"mal-broken-{front}", broken)

    def attack(server: ServerProcess) -> str:
        requests = [asked(adapter_id=name)] * 40
        outcomes = front.send(torch_arena.attackers, server, requests, "attacker")
        assert not any(str(ground.root) in one.details for one in outcomes)
        lines = server.log.read_text().splitlines()
        failed = sum('"adapter failed"' in line and name in line for line in lines)
        assert failed <= 2, f"read {failed} times"
        return expect(outcomes, "INVALID_ARGUMENT")

    torch_arena.withstand(front.named("names: a broken adapter's, 40 times"), attack)


@both
@pytest.mark.parametrize("caller", ["operator", "attacker"])
def test_names_that_lead_out(torch_arena: Arena, front: Front, caller: str) -> None:
    """Of a root, or to the files of another adapter by another name."""
    requests = [asked(adapter_id=name) for name in LEADING_OUT + OTHERS]

    def attack(server: ServerProcess) -> str:
        outcomes = front.send(torch_arena.attackers, server, requests, caller)
        return expect(outcomes, "NOT_FOUND", "INVALID_ARGUMENT", "PERMISSION_DENIED")

    torch_arena.withstand(front.named(f"names: paths and escapes, {caller}"), attack)
