"""Tenants: what one takes is not another's, and what one has asked is not told to another."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from loramux.v1 import adapters_pb2

from .arena import Arena, expect
from .calls import administer, answer, asked, load, unload
from .files import config
from .fronts import GRPC, HTTP, Front, both, both_http_slow
from .ground import Ground
from .redirects import Redirects
from .server import ServerProcess

pytestmark = pytest.mark.attacks

LONG = {"n": 16, "max_new_tokens": 3000, "temperature": 1.0}


@both
@pytest.mark.parametrize("adapter_id", ["", "mal-mine"])
def test_a_caller_that_fills_the_queue(arena: Arena, front: Front, adapter_id: str) -> None:
    """Others are taken beside it, whatever adapter it uses: n counts as n."""

    def attack(server: ServerProcess) -> str:
        if adapter_id:
            expect(load(arena, server, "good", adapter_id), "OK")
        requests = [asked(adapter_id=adapter_id, **LONG)] * 36
        begun = front.start(arena.attackers, server, requests, "attacker", cancel_after=2.0)
        for innocent in (GRPC, HTTP) * 2:
            answer(arena, server, "neighbour", innocent)
            answer(arena, server, "neighbour", innocent, adapter_id="good")
        text = expect(begun.result(60), "CANCELLED", "RESOURCE_EXHAUSTED")
        assert "RESOURCE_EXHAUSTED" in text, text
        if adapter_id:
            expect(unload(arena, server, adapter_id), "OK")
        return text

    name = f"queue: 36 requests of 16 choices, {adapter_id or 'base'}"
    arena.withstand(front.named(name), attack)


@both_http_slow
def test_single_requests_that_fill_the_queue(arena: Arena, front: Front) -> None:
    requests = [asked(max_new_tokens=3000)] * 300

    def attack(server: ServerProcess) -> str:
        begun = front.start(arena.attackers, server, requests, "attacker", cancel_after=2.0)
        for innocent in (GRPC, HTTP) * 2:
            answer(arena, server, "neighbour", innocent, adapter_id="good")
        return expect(begun.result(60), "CANCELLED", "RESOURCE_EXHAUSTED")

    arena.withstand(front.named("queue: 300 requests"), attack)


@both
def test_a_priority_above_the_token_s(arena: Arena, front: Front) -> None:
    requests = [asked(priority=p) for p in (1, 5, 10)]

    def attack(server: ServerProcess) -> str:
        denied = front.send(arena.attackers, server, requests, "attacker")
        fine = [asked(priority=p) for p in (-10, 0)]
        expect(front.send(arena.attackers, server, fine, "attacker"), "OK")
        return expect(denied, "PERMISSION_DENIED")

    arena.withstand(front.named("priorities above the token's"), attack)


def pin() -> adapters_pb2.Policy:
    return adapters_pb2.Policy(pinned=True)


def heavy() -> adapters_pb2.Policy:
    return adapters_pb2.Policy(weight=1000)


@pytest.mark.parametrize("policy", [pin, heavy])
def test_an_administrator_of_some_adapters(
    arena: Arena, policy: Callable[[], adapters_pb2.Policy]
) -> None:
    ids = [f"team-a-{i}" for i in range(8)]

    def attack(server: ServerProcess) -> str:
        denied = load(arena, server, "good", *ids, caller="team-a", policy=policy())
        expect(load(arena, server, "good", *ids[:2], caller="team-a"), "OK")
        requests = [adapters_pb2.SetPolicyRequest(adapter_id=i, policy=policy()) for i in ids[:2]]
        denied += administer(arena, server, "SetPolicy", *requests, caller="team-a")
        text = expect(denied, "PERMISSION_DENIED")
        answer(arena, server, "neighbour", adapter_id="good")
        expect(unload(arena, server, *ids[:2]), "OK")
        return text

    arena.withstand(f"policies: {policy.__name__}, of an administrator of some", attack)


def test_as_many_pins_as_there_are_slots(arena: Arena, ground: Ground) -> None:
    """Whoever may pin leaves half of the slots."""
    paths = [ground.adapter(f"mal-pin-{i}", config(lora_alpha=40 + i)) for i in range(8)]

    def attack(server: ServerProcess) -> str:
        outcomes = []
        for path in paths:
            outcomes += load(arena, server, path, caller="sharer", policy=pin())
        pinned = [p for p, o in zip(paths, outcomes, strict=True) if o.code == "OK"]
        expect(load(arena, server, "good", "mal-victim"), "OK")
        answer(arena, server, "attacker", adapter_id="mal-victim")
        expect(unload(arena, server, "mal-victim", *pinned), "OK")
        assert 0 < len(pinned) <= 5, f"{len(pinned)} of 8 slots are pinned"
        return expect(outcomes, "OK", "RESOURCE_EXHAUSTED")

    arena.withstand("policies: eight pins for eight slots", attack)


SECRET = "Customer 4711 Jane Miller, diagnosis: {}, balance 1200 euros, wants to close her account"


@both
def test_what_others_have_asked(arena: Arena, front: Front) -> None:
    """A right guess tells no more than a wrong one; who gives the same salt shares."""

    tries, number = itertools.count(), 0

    def cached(server: ServerProcess, caller: str, illness: str, **fields: str) -> int:
        prompt = f"{front} {number}: {SECRET.format(illness)}"
        return answer(arena, server, caller, front, prompt=prompt, **fields).cached_tokens

    def attack(server: ServerProcess) -> str:
        nonlocal number
        number = next(tries)  # a second try finds its own prompts
        cached(server, "neighbour", "diabetes")
        assert cached(server, "neighbour", "diabetes") > 0
        guesses = [cached(server, "attacker", g) for g in ("diabetes", "asthma", "migraine")]
        assert guesses[0] == 0, f"the right guess has {guesses[0]} cached tokens"
        cached(server, "neighbour", "gout", cache_salt="shared")
        assert cached(server, "attacker", "gout", cache_salt="shared") > 0
        assert cached(server, "attacker", "gout", cache_salt="other") == 0
        return f"cached tokens of guesses: {guesses}"

    arena.withstand(front.named("prefixes: a guess at another's prompt"), attack)


@both
def test_adapters_outside_the_scope(arena: Arena, front: Front) -> None:
    one = {"adapter_id": "good"}
    requests = [
        asked(adapter_id="good"),
        asked(adapters=[one]),
        asked(adapters=[{"adapter_id": "mal-x"}, one]),
        asked(adapter_id="*"),
        asked(adapter_id="cold-00001"),
    ]
    if front is GRPC:  # over HTTP it is the base's name
        requests.append(asked(adapter_id="base"))

    def attack(server: ServerProcess) -> str:
        outcomes = front.send(arena.attackers, server, requests, "attacker")
        outcomes += load(arena, server, "good", "mal-x", caller="attacker")
        outcomes += load(arena, server, "good", "good", caller="team-a")
        gone = adapters_pb2.UnloadAdapterRequest(adapter_id="good")
        outcomes += administer(arena, server, "UnloadAdapter", gone, caller="team-a")
        everyone = adapters_pb2.SetPolicyRequest(adapter_id="*", policy=adapters_pb2.Policy())
        outcomes += administer(arena, server, "SetPolicy", everyone, caller="team-a")
        return expect(outcomes, "PERMISSION_DENIED")

    arena.withstand(front.named("scopes: adapters of others"), attack)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_source_that_redirects(arena: Arena, redirects: Redirects, status: int) -> None:
    """Another address than the allowed prefix is never asked."""
    redirects.status = status

    def attack(server: ServerProcess) -> str:
        redirects.inner_seen.clear()
        request = adapters_pb2.LoadAdapterRequest(
            source=f"{redirects.allowed}/mine-{status}", adapter_id="mal-redirected"
        )
        outcomes = administer(arena, server, "LoadAdapter", request)
        assert not redirects.inner_seen, f"the inner server was asked: {redirects.inner_seen[:2]}"
        text = expect(outcomes, "INVALID_ARGUMENT", "FAILED_PRECONDITION", "PERMISSION_DENIED")
        assert "secret" not in outcomes[0].details
        return text

    arena.withstand(f"sources: redirects with {status}", attack)


def test_a_source_outside_the_prefix(arena: Arena, redirects: Redirects) -> None:
    inner = redirects.inner
    sources = [
        f"{inner}/x",
        f"{redirects.allowed}/../latest/x",
        f"{redirects.allowed}-2/x",
        redirects.allowed.replace("http://", "http://user:secret@") + "/x",
        f"file://{__file__}",
        "local:///etc",
        f"simplecache::{inner}/x",
    ]

    def attack(server: ServerProcess) -> str:
        redirects.inner_seen.clear()
        requests = [
            adapters_pb2.LoadAdapterRequest(source=s, adapter_id=f"mal-{i}")
            for i, s in enumerate(sources)
        ]
        paths = ["/etc", "../base", "good/../../base", "\0", "good\n"]
        requests += [adapters_pb2.LoadAdapterRequest(path=p, adapter_id="mal-p") for p in paths]
        outcomes = administer(arena, server, "LoadAdapter", *requests)
        assert not redirects.inner_seen, "the inner server was asked"
        return expect(outcomes, "INVALID_ARGUMENT", "PERMISSION_DENIED")

    arena.withstand("sources: outside of what is allowed", attack)
