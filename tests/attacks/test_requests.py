"""Requests: each field by the million, texts as long as a message, numbers at their ends, answers without end."""

from __future__ import annotations

from typing import Any

import pytest

from . import wire
from .arena import Arena, expect
from .calls import asked
from .forms import Asked, Deep, Long, Many
from .fronts import GRPC, Front, both, over_both
from .ground import CONTEXT, EOS
from .server import ServerProcess
from .wire import FULL, GENERATE, MESSAGES, PROMPT, STOP_TOKEN_IDS, TEMPLATE_VALUES, TOKEN_IDS

pytestmark = pytest.mark.attacks

REFUSED = "INVALID_ARGUMENT"
EMOJI = "\U0001f600"
PROMPTED = wire.field(PROMPT, "x")
MESSAGE = wire.field(MESSAGES, wire.field(2, "a"))
LEVELS = b""
for _ in range(1000):  # objects within objects: an entry, its name, its value
    LEVELS = wire.field(1, wire.field(1, "a") + wire.field(2, wire.field(5, LEVELS)))


def prompted(**fields: Any) -> Asked:
    return Asked({"prompt": "x"} | fields)


def said(**fields: Any) -> Asked:
    return Asked({"messages": [{"role": "user"} | fields]})


def valued(raw: bytes, values: Any) -> Asked:
    """With values for the chat template."""
    fields = {"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": values}
    return Asked(fields, MESSAGE + raw)


BY_THE_MILLION = {
    "empty messages": Asked({"messages": Many({})}),
    "messages of 200 KB": Asked({"messages": Many({}, 200_000)}),
    "messages of a letter": Asked({"messages": Many({"content": "a"})}),
    "roles alone": Asked({"messages": Many({"role": "user"})}),
    "empty adapters": prompted(adapters=Many({})),
    "adapters that are there": prompted(adapters=Many({"adapter_id": "mal-x"})),
    "nine adapters": prompted(adapters=[{"adapter_id": "mal-x"}] * 9),
    "adapters and messages": Asked(
        {"adapters": Many({}, FULL // 2), "messages": Many({}, FULL // 2)}
    ),
    "stop strings": prompted(stop=Many("a")),
    "empty stop strings": prompted(stop=Many("")),
    "stop tokens": prompted(stop_token_ids=Many(3)),
    "257 stop tokens": prompted(stop_token_ids=[3] * 257),
    "token ids": Asked({"token_ids": Many(3)}),
    "token ids that are none": Asked({"token_ids": Many(2**32 - 1)}),
    "template values": valued(
        wire.field(TEMPLATE_VALUES, wire.repeated(1, size=FULL // 2)), {"a": Many(0)}
    ),
    "template values in template values": valued(
        wire.field(TEMPLATE_VALUES, LEVELS), {"a": Deep(1000)}
    ),
    "a context of token ids and one": Asked({"token_ids": [5] * (CONTEXT + 1)}),
}
BY_THE_FIELD = {
    "stop tokens, each a field": PROMPTED + wire.unpacked(STOP_TOKEN_IDS),
    "token ids, each a field": wire.unpacked(TOKEN_IDS),
    "template values, each a field": MESSAGE + wire.repeated(TEMPLATE_VALUES, wire.field(1, b"")),
}
LONG_TEXTS = {
    "a prompt of a letter": Asked({"prompt": Long("a")}),
    "a prompt of spaces": Asked({"prompt": Long(" ")}),
    "a prompt of emoji": Asked({"prompt": Long(EMOJI)}),
    "a prompt of zeros": Asked({"prompt": Long("\0")}),
    "a prompt of special tokens": Asked({"prompt": Long("</s>")}),
    "a prompt just too long": Asked({"prompt": "a b " * CONTEXT}),
    "a message of a letter": said(content=Long("a")),
    "a message of spaces": said(content=Long(" ")),
    "a message of special tokens": said(content=Long("</s>")),
    "a role of 4 MB": said(role=Long("a")),
    "a message of 300 KB": said(content="word " * 60_000),
    "a stop string of 4 MB": prompted(stop=[Long("a")]),
    "a request id of 4 MB": prompted(request_id=Long("a")),
}


def refused(
    arena: Arena, front: Front, name: str, request: Asked, times: int = 1, **how: object
) -> None:
    """The attack must be refused, in each way in which it may be read."""

    def attack(server: ServerProcess) -> str:
        text = ""
        for stream in front.ways:
            requests = [request] * times
            outcomes = front.send(arena.attackers, server, requests, "attacker", stream, **how)
            text = expect(outcomes, REFUSED)
        return text

    arena.withstand(front.named(name), attack)


@both
@pytest.mark.parametrize("name", BY_THE_MILLION)
def test_a_field_by_the_million(arena: Arena, front: Front, name: str) -> None:
    request = BY_THE_MILLION[name]
    # Adapters outside the token's scope may be told of before they are counted.
    if "adapters" in name:
        arena.withstand(front.named(name), lambda server: _either(arena, front, server, request))
    else:
        refused(arena, front, name, request)


def _either(arena: Arena, front: Front, server: ServerProcess, request: Asked) -> str:
    text = ""
    for caller, codes in (("operator", (REFUSED,)), ("attacker", (REFUSED, "PERMISSION_DENIED"))):
        outcomes = front.send(arena.attackers, server, [request] * 3, caller)
        text = expect(outcomes, *codes)
    return text


@pytest.mark.parametrize("name", BY_THE_FIELD)
def test_entries_that_are_fields(arena: Arena, name: str) -> None:
    refused(arena, GRPC, name, Asked({}, BY_THE_FIELD[name]))


@both
@pytest.mark.parametrize("name", LONG_TEXTS)
def test_a_text_as_long_as_a_message(arena: Arena, front: Front, name: str) -> None:
    refused(arena, front, name, LONG_TEXTS[name])


SEVERAL = {
    **{n: BY_THE_MILLION[n] for n in ("empty messages", "token ids", "stop tokens")},
    **{n: LONG_TEXTS[n] for n in ("a message of a letter", "a message of spaces")},
}


@both
@pytest.mark.parametrize("name", SEVERAL)
def test_several_at_once(arena: Arena, front: Front, name: str) -> None:
    refused(arena, front, f"{name}, six at once", SEVERAL[name], times=6)


@pytest.mark.parametrize("name", ["empty messages", "stop tokens", "a message of a letter"])
def test_a_few_kilobytes_on_the_wire(arena: Arena, name: str) -> None:
    refused(arena, GRPC, f"{name}, gzip", SEVERAL[name], times=3, gzip=True)


@both
def test_again_and_again(arena: Arena, front: Front) -> None:
    """What is refused is freed: no garbage collection is waited for."""
    refused(arena, front, "token ids, 12 times", BY_THE_MILLION["token ids"], times=12)


@both
@pytest.mark.parametrize("name", ["empty messages", "empty adapters", "a message of a letter"])
def test_without_a_token(arena: Arena, front: Front, name: str) -> None:
    request = (BY_THE_MILLION | LONG_TEXTS)[name]

    def attack(server: ServerProcess) -> str:
        outcomes = front.send(arena.attackers, server, [request] * 10)
        return expect(outcomes, "UNAUTHENTICATED", *front.unread)

    arena.withstand(front.named(f"{name}, no token"), attack)


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


@pytest.mark.parametrize(
    ("size", "caller"),
    [(FULL + 512, ""), (FULL + 512, "attacker"), (100 << 20, "")],  # which takes its client seconds
    ids=["just over, no token", "just over", "100 MB, no token"],
)
def test_more_than_a_message_may_have(arena: Arena, caller: str, size: int) -> None:
    request = wire.field(PROMPT, "a" * size)

    def attack(server: ServerProcess) -> str:
        work = (server.target, GENERATE, [request] * 3, caller)
        return expect(arena.attackers.send(*work, gzip=True), "RESOURCE_EXHAUSTED")

    arena.withstand(f"gzip of {size >> 20} MB, token: {caller or 'none'}", attack)


@both
def test_an_answer_too_large_for_a_message(arena: Arena, front: Front) -> None:
    """Refused before it is computed: it would take thousands of steps."""
    request = asked(n=16, logprobs=20, max_new_tokens=3000, temperature=1.0)

    def attack(server: ServerProcess) -> str:
        before = server.load().steps
        outcomes = front.send(arena.attackers, server, [request] * 2, "attacker")
        text = expect(outcomes, REFUSED, "RESOURCE_EXHAUSTED")
        assert server.load().steps - before < 2000, "it was computed first"
        return text

    arena.withstand(front.named("an answer of 50 MB"), attack)


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
        for stream in (False, True):
            text = expect(
                over_both(arena.attackers, server, [ANSWERED[name]], "attacker", stream)(), "OK"
            )
        return text

    arena.withstand(name, attack)
