"""Files of adapters: weights, headers, patterns, templates, tokenizers. Who wrote them may do what an adapter does."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import files, hostile
from .arena import Arena, expect
from .attackers import Outcome
from .calls import answer, asked, chat, load, unload
from .forms import Asked
from .fronts import GRPC, over_both
from .ground import Ground
from .server import ServerProcess

pytestmark = pytest.mark.attacks

REFUSED = ("INVALID_ARGUMENT", "FAILED_PRECONDITION")
FAILS = (*REFUSED, "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")


def name_of(kind: str, name: str) -> str:
    return f"mal-{kind}-{name}".replace(" ", "-").replace(",", "")


@pytest.mark.parametrize("name", hostile.REFUSED_FILES)
def test_files_that_must_be_refused(arena: Arena, ground: Ground, name: str) -> None:
    path = ground.adapter(name_of("file", name), hostile.REFUSED_FILES[name])

    def attack(server: ServerProcess) -> str:
        return expect(load(arena, server, path, "mal-1", "mal-2"), *REFUSED, "PERMISSION_DENIED")

    arena.withstand(f"files: {name}", attack)


def used(
    arena: Arena, server: ServerProcess, path: str, *requests: Asked, stream: bool = False
) -> tuple[list[Outcome], list[Outcome]]:
    """How the load ended, and how the requests did over either front, if there is an adapter to ask.

    Meanwhile somebody else's conversation is answered.
    """
    loaded = load(arena, server, path)
    if loaded[0].code != "OK":
        return loaded, []
    ended = over_both(arena.attackers, server, requests, "attacker", stream, timeout=10)
    innocent = GRPC.send(arena.attackers, server, [chat()] * 3, "neighbour", timeout=10)
    outcomes = ended()
    expect(innocent, "OK")
    expect(unload(arena, server, path), "OK")
    return loaded, outcomes


@pytest.mark.parametrize("name", hostile.TEMPLATES | hostile.REFUSED_TEMPLATES)
def test_templates(arena: Arena, ground: Ground, name: str) -> None:
    make = (hostile.TEMPLATES | hostile.REFUSED_TEMPLATES)[name]
    path = ground.adapter(name_of("template", name), make)

    def attack(server: ServerProcess) -> str:
        loaded, outcomes = used(arena, server, path, chat(adapter_id=path))
        if not outcomes:
            return f"load: {expect(loaded, *REFUSED)}"
        return expect(outcomes, *FAILS)

    arena.withstand(f"template: {name}", attack)


@pytest.mark.parametrize("name", hostile.TOKENIZERS)
def test_tokenizers(arena: Arena, ground: Ground, name: str) -> None:
    path = ground.adapter(name_of("tokenizer", name), hostile.TOKENIZERS[name])
    texts = ["x", "ab" * 40, "a" * 30, "</s> a", ""]
    requests = [
        *(asked(prompt=text, adapter_id=path) for text in texts),
        *(chat(text, adapter_id=path) for text in texts),
        asked(token_ids=[1, 300, 2], adapter_id=path, stop=["x"]),
    ]

    def attack(server: ServerProcess) -> str:
        text = ""
        for stream in (False, True):
            loaded, outcomes = used(arena, server, path, *requests, stream=stream)
            if not outcomes:
                return f"load: {expect(loaded, *REFUSED)}"
            text = expect(outcomes, "OK", *REFUSED)
        return text

    arena.withstand(f"tokenizer: {name}", attack)


def test_many_at_once(arena: Arena, ground: Ground) -> None:
    """Loads that take long keep nobody else's from being done."""
    names = ("sparse 2 GiB", "header of lists, 3.9 MB", "slow to compile", "a sparse configuration")
    paths = [ground.adapter(name_of("file", n), hostile.REFUSED_FILES[n]) for n in names]

    def attack(server: ServerProcess) -> str:
        text = ""
        for path in paths:
            text = expect(load(arena, server, path, *[f"mal-{i}" for i in range(12)]), *REFUSED)
        expect(load(arena, server, "good", "mal-good"), "OK")
        expect(unload(arena, server, "mal-good"), "OK")
        return text

    arena.withstand("files: twelve loads at once", attack)


@pytest.mark.parametrize("kind", ["overflow", "activated overflow"])
def test_an_adapter_that_overflows(arena: Arena, ground: Ground, kind: str) -> None:
    overflow = {"overflow": hostile.OVERFLOW, "activated overflow": hostile.ACTIVATED_OVERFLOW}
    path = ground.adapter(name_of("weights", kind), overflow[kind])
    _overflow(arena, path, f"weights: {kind}")


def test_an_adapter_that_overflows_on_torch(torch_arena: Arena, ground: Ground) -> None:
    path = ground.adapter("mal-weights-activated-overflow", hostile.ACTIVATED_OVERFLOW)
    _overflow(torch_arena, path, "weights, torch: activated overflow")


def _overflow(arena: Arena, path: str, name: str) -> None:
    """Its own requests fail alone; what others get behind the same prefix is what they get without it."""
    shared = list(range(1000, 1040))
    alone = list(range(1040, 1080))

    def attack(server: ServerProcess) -> str:
        expect(load(arena, server, path), "OK")
        own = asked(adapter_id=path, token_ids=[*shared, *files.INVOCATION, 700])
        outcomes = GRPC.send(arena.attackers, server, [own] * 4, "attacker")
        text = expect(outcomes, "INTERNAL", *REFUSED)
        for tail in (600, 601):
            got = answer(arena, server, "neighbour", token_ids=[*shared, tail])
            again = answer(arena, server, "neighbour", token_ids=[*shared, tail])
            assert len(got.token_ids) == 4
            assert got.token_ids == again.token_ids
        answer(arena, server, "neighbour", token_ids=[*alone, 600])
        expect(unload(arena, server, path), "OK")
        return text

    arena.withstand(name, attack)


def test_files_swapped_after_the_load(arena: Arena, ground: Ground, tmp_path: Path) -> None:
    """The server keeps no host copies: it reads again what has left its slot."""
    secret = tmp_path / "secret.json"
    secret.write_text('{"peft_type": "SECRET-OF-ANOTHER"}')
    others = [ground.adapter(f"mal-churn-{i}", files.config(lora_alpha=16 + i)) for i in range(10)]

    def attack(server: ServerProcess) -> str:
        path = f"mal-swapped-{server.port}"
        directory = ground.root / ground.adapter(path, files.config(lora_alpha=9))
        expect(load(arena, server, path), "OK")
        answer(arena, server, "attacker", adapter_id=path)
        (directory / files.CONFIG).unlink()
        (directory / files.CONFIG).symlink_to(secret)
        for other in others:
            expect(load(arena, server, other), "OK")
            answer(arena, server, "attacker", adapter_id=other)
        request = asked(adapter_id=path)
        outcomes = GRPC.send(arena.attackers, server, [request], "attacker")
        text = expect(outcomes, "FAILED_PRECONDITION")
        assert "SECRET" not in outcomes[0].details, outcomes[0].details
        expect(unload(arena, server, path, *others), "OK")
        (directory / files.CONFIG).unlink()
        (directory / files.CONFIG).write_bytes((ground.root / "good" / files.CONFIG).read_bytes())
        return text

    arena.withstand("files: swapped for links after the load", attack)


def test_ever_other_adapters(arena: Arena, ground: Ground) -> None:
    others = [ground.adapter(f"mal-churn-{i}", files.config(lora_alpha=16 + i)) for i in range(24)]
    requests = [asked(adapter_id=other, max_new_tokens=1) for other in others]

    def attack(server: ServerProcess) -> str:
        for other in others:
            expect(load(arena, server, other), "OK")
        outcomes = []
        for _ in range(6):
            outcomes += GRPC.send(arena.attackers, server, requests, "attacker")
        expect(unload(arena, server, *others), "OK")
        return expect(outcomes, "OK", "RESOURCE_EXHAUSTED")

    arena.withstand("24 adapters through 8 slots", attack)
