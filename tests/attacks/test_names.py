"""Names that nobody has, on a server that looks for them below its roots."""

from __future__ import annotations

import pytest

from .arena import Arena, expect
from .calls import asked
from .fronts import Front, both
from .server import ServerProcess

pytestmark = pytest.mark.attacks

PATHS = (
    "..",
    "../base",
    "/etc",
    "good/../../base",
    "good/..",
    "./good",
    "good\0",
    "good/",
    "~root",
)
OTHERS = ("*", "\u202egood", "good\n", "a" * 255, "%2e%2e", "file:///etc", "hf://x/y", "good@1")


@both
def test_names_by_the_thousand(torch_arena: Arena, front: Front) -> None:
    requests = [asked(adapter_id=f"nobody-{front}-{i}") for i in range(500)]

    def attack(server: ServerProcess) -> str:
        outcomes = front.send(torch_arena.attackers, server, requests, "operator")
        return expect(outcomes, "NOT_FOUND", *front.over[1:])

    torch_arena.withstand(front.named("names: 500 that nobody has"), attack)


@both
def test_names_that_lead_out(torch_arena: Arena, front: Front) -> None:
    """Of a root, or to the files of another adapter by another name."""
    requests = [asked(adapter_id=name) for name in PATHS + OTHERS]

    def attack(server: ServerProcess) -> str:
        outcomes = front.send(torch_arena.attackers, server, requests, "operator")
        return expect(outcomes, "NOT_FOUND", "INVALID_ARGUMENT", "PERMISSION_DENIED")

    torch_arena.withstand(front.named("names: paths and escapes"), attack)
