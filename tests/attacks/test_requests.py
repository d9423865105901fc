"""Requests: each field by the million, texts as long as a message, numbers at their ends, answers without end."""

from __future__ import annotations

import pytest

from . import wire
from .arena import Arena, expect
from .calls import asked
from .ground import CONTEXT, EOS
from .server import ServerProcess
from .wire import (
    ADAPTERS,
    FULL,
    GENERATE,
    MESSAGES,
    PROMPT,
    STOP,
    STOP_TOKEN_IDS,
    STREAM,
    TEMPLATE_VALUES,
    TOKEN_IDS,
)

pytestmark = pytest.mark.attacks

PROMPTED = wire.field(PROMPT, "x")
REFUSED = "INVALID_ARGUMENT"
EMOJI = "\U0001f600"
LONG = FULL - 64
MESSAGE = wire.field(MESSAGES, wire.field(2, "a"))
LEVELS = b""
for _ in range(1000):  # objects within objects: an entry, its name, its value
    LEVELS = wire.field(1, wire.field(1, "a") + wire.field(2, wire.field(5, LEVELS)))

BY_THE_MILLION = {
    "empty messages": wire.repeated(MESSAGES),
    "messages of 200 KB": wire.repeated(MESSAGES, size=200_000),
    "messages of a letter": wire.repeated(MESSAGES, wire.field(2, "a")),
    "roles alone": wire.repeated(MESSAGES, wire.field(1, "user")),
    "empty adapters": PROMPTED + wire.repeated(ADAPTERS),
    "adapters that are there": PROMPTED + wire.repeated(ADAPTERS, wire.field(1, "mal-x")),
    "nine adapters": PROMPTED + wire.field(ADAPTERS, wire.field(1, "mal-x")) * 9,
    "adapters and messages": wire.repeated(ADAPTERS, size=FULL // 2)
    + wire.repeated(MESSAGES, size=FULL // 2),
    "stop strings": PROMPTED + wire.repeated(STOP, "a"),
    "empty stop strings": PROMPTED + wire.repeated(STOP),
    "stop tokens": PROMPTED + wire.packed(STOP_TOKEN_IDS),
    "stop tokens, each a field": PROMPTED + wire.unpacked(STOP_TOKEN_IDS),
    "257 stop tokens": PROMPTED + wire.field(STOP_TOKEN_IDS, b"\3" * 257),
    "token ids": wire.packed(TOKEN_IDS),
    "token ids, each a field": wire.unpacked(TOKEN_IDS),
    "token ids that are none": wire.packed(TOKEN_IDS, 2**32 - 1),
    "template values": MESSAGE + wire.field(TEMPLATE_VALUES, wire.repeated(1, size=FULL // 2)),
    "template values, each a field": MESSAGE + wire.repeated(TEMPLATE_VALUES, wire.field(1, b"")),
    "template values in template values": MESSAGE + wire.field(TEMPLATE_VALUES, LEVELS),
    "a context of token ids and one": wire.field(TOKEN_IDS, b"\5" * (CONTEXT + 1)),
}
LONG_TEXTS = {
    "a prompt of a letter": wire.field(PROMPT, "a" * LONG),
    "a prompt of spaces": wire.field(PROMPT, " " * LONG),
    "a prompt of emoji": wire.field(PROMPT, EMOJI * (LONG // 4)),
    "a prompt of zeros": wire.field(PROMPT, "\0" * LONG),
    "a prompt of special tokens": wire.field(PROMPT, "</s>" * (LONG // 4)),
    "a prompt just too long": wire.field(PROMPT, "a b " * CONTEXT),
    "a message of a letter": wire.field(MESSAGES, wire.field(2, "a" * LONG)),
    "a message of spaces": wire.field(MESSAGES, wire.field(2, " " * LONG)),
    "a message of special tokens": wire.field(MESSAGES, wire.field(2, "</s>" * (LONG // 4))),
    "a role of 4 MB": wire.field(MESSAGES, wire.field(1, "a" * LONG)),
    "a message of 300 KB": wire.field(MESSAGES, wire.field(2, "word " * 60_000)),
    "a stop string of 4 MB": PROMPTED + wire.field(STOP, "a" * LONG),
    "a request id of 4 MB": PROMPTED + wire.field(19, "a" * LONG),
}


def refused(arena: Arena, name: str, request: bytes, times: int = 1, **how: object) -> None:
    """The attack must be refused, unary and as a stream."""

    def attack(server: ServerProcess) -> str:
        text = ""
        for method in (GENERATE, STREAM):
            outcomes = arena.attackers.send(
                server.target, method, [request] * times, "attacker", **how
            )
            text = expect(outcomes, REFUSED)
        return text

    arena.withstand(name, attack)


@pytest.mark.parametrize("name", BY_THE_MILLION)
def test_a_field_by_the_million(arena: Arena, name: str) -> None:
    request = BY_THE_MILLION[name]
    # Adapters outside the token's scope may be told of before they are counted.
    if "adapters" in name:
        arena.withstand(name, lambda server: _either(arena, server, request))
    else:
        refused(arena, name, request)


def _either(arena: Arena, server: ServerProcess, request: bytes) -> str:
    text = ""
    for caller, codes in (("operator", (REFUSED,)), ("attacker", (REFUSED, "PERMISSION_DENIED"))):
        outcomes = arena.attackers.send(server.target, GENERATE, [request] * 3, caller)
        text = expect(outcomes, *codes)
    return text


@pytest.mark.parametrize("name", LONG_TEXTS)
def test_a_text_as_long_as_a_message(arena: Arena, name: str) -> None:
    refused(arena, name, LONG_TEXTS[name])


SEVERAL = {
    **{n: BY_THE_MILLION[n] for n in ("empty messages", "token ids", "stop tokens")},
    **{n: LONG_TEXTS[n] for n in ("a message of a letter", "a message of spaces")},
}


@pytest.mark.parametrize("name", SEVERAL)
def test_several_at_once(arena: Arena, name: str) -> None:
    refused(arena, f"{name}, six at once", SEVERAL[name], times=6)


@pytest.mark.parametrize("name", ["empty messages", "stop tokens", "a message of a letter"])
def test_a_few_kilobytes_on_the_wire(arena: Arena, name: str) -> None:
    refused(arena, f"{name}, gzip", SEVERAL[name], times=3, gzip=True)


def test_again_and_again(arena: Arena) -> None:
    """What is refused is freed: no garbage collection is waited for."""
    refused(arena, "token ids, 30 times", BY_THE_MILLION["token ids"], times=30)


@pytest.mark.parametrize("name", ["empty messages", "empty adapters", "a message of a letter"])
def test_without_a_token(arena: Arena, name: str) -> None:
    request = (BY_THE_MILLION | LONG_TEXTS)[name]

    def attack(server: ServerProcess) -> str:
        work = (server.target, GENERATE, [request] * 10)
        return expect(arena.attackers.send(*work), "UNAUTHENTICATED")

    arena.withstand(f"{name}, no token", attack)


MALFORMED = {
    "bytes that are no text": wire.field(PROMPT, b"\xff\xfe" * 1000),
    "a message cut short": wire.tag(PROMPT) + wire.varint(FULL) + b"a",
    "messages in messages": wire.nested(MESSAGES, 2000),
    "fields that are not known": PROMPTED + wire.repeated(900, "abc"),
    "groups without an end": wire.tag(900, 3) * (FULL // 2),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_bytes_that_are_no_request(arena: Arena, name: str) -> None:
    def attack(server: ServerProcess) -> str:
        work = (server.target, GENERATE, [MALFORMED[name]] * 3, "attacker")
        return expect(arena.attackers.send(*work), REFUSED, "INTERNAL", "OK")

    arena.withstand(name, attack)


@pytest.mark.parametrize("caller", ["", "attacker"])
@pytest.mark.parametrize("size", [FULL + 512, 100 << 20], ids=["just over", "100 MB"])
def test_more_than_a_message_may_have(arena: Arena, caller: str, size: int) -> None:
    request = wire.field(PROMPT, "a" * size)

    def attack(server: ServerProcess) -> str:
        work = (server.target, GENERATE, [request] * 3, caller)
        return expect(arena.attackers.send(*work, gzip=True), "RESOURCE_EXHAUSTED")

    arena.withstand(f"gzip of {size >> 20} MB, token: {caller or 'none'}", attack)


def test_an_answer_too_large_for_a_message(arena: Arena) -> None:
    """Refused before it is computed: it would take thousands of steps."""
    request = asked(n=16, logprobs=20, max_new_tokens=3000, temperature=1.0)

    def attack(server: ServerProcess) -> str:
        before = server.load().steps
        work = (server.target, GENERATE, [request] * 2, "attacker")
        text = expect(arena.attackers.send(*work), REFUSED, "RESOURCE_EXHAUSTED")
        assert server.load().steps - before < 2000, "it was computed first"
        return text

    arena.withstand("an answer of 50 MB", attack)


ANSWERED = {
    "n = 16 with 20 logprobs": asked(n=16, logprobs=20, max_new_tokens=60, temperature=1.0),
    "256 stop tokens, n = 16": asked(
        n=16, max_new_tokens=60, stop_token_ids=list(range(10, 266)), temperature=1.0
    ),
    "16 stop strings of 1024 letters": asked(
        stop=[chr(97 + i) * 1024 for i in range(16)], max_new_tokens=200, n=4, temperature=1.0
    ),
    "one token's text as stop strings": asked(
        token_ids=[300] * 64,
        stop=["a" * 1023 + "b"] + [f"<{i:02}" + "a" * 1020 for i in range(15)],
        repetition_penalty=0.02,
        max_new_tokens=600,
        n=4,
        temperature=1.0,
    ),
    "special tokens for ever": asked(
        token_ids=[EOS] * 64,
        repetition_penalty=0.02,
        max_new_tokens=1500,
        temperature=1.0,
    ),
    "half a context of prompt": asked(token_ids=[5] * (CONTEXT // 2)),
}


@pytest.mark.parametrize("name", ANSWERED)
def test_what_is_answered(arena: Arena, name: str) -> None:
    def attack(server: ServerProcess) -> str:
        text = ""
        for method in (GENERATE, STREAM):
            work = (server.target, method, [ANSWERED[name]] * 2, "attacker")
            text = expect(arena.attackers.send(*work), "OK")
        return text

    arena.withstand(name, attack)
