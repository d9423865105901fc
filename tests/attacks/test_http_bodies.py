"""Bodies: JSON that is none, or that two readers would read otherwise, values in values, names by the million."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from .arena import Arena, expect
from .attackers import Outcome
from .forms import CHAT, COMPLETIONS, LONG, Deep, Long, Many, written
from .http1 import grouped, post, said, statuses
from .server import ServerProcess
from .wire import FULL

pytestmark = pytest.mark.attacks

REFUSED = "INVALID_ARGUMENT"
TOKENIZE, DETOKENIZE = "/tokenize", "/detokenize"
LONG_NUMBER = b"9" * LONG
HALF = '"\\ud800"'


def body(**fields: Any) -> bytes:
    return written({"prompt": "x", "max_tokens": 2} | fields)


def raw(text: str) -> bytes:
    return b'{"prompt":"x","max_tokens":2,' + text.encode() + b"}"


def names(count: int) -> bytes:
    return b"{" + b",".join(b'"n%d":0' % i for i in range(count)) + b"}"


NO_JSON = {
    "nothing": b"",
    "an end alone": b"}",
    "a text": b'"prompt"',
    "null": b"null",
    "a list": b'[{"prompt":"x"}]',
    "a number of 4 MB": LONG_NUMBER,
    "something behind it": body() + b"{}",
    "half of it": body()[:-1],
    "a comment": body() + b"// x",
    "single quotes": b"{'prompt':'x'}",
    "UTF-16": body().decode().encode("utf-16"),
    "Latin-1": '{"prompt":"é"}'.encode("latin-1"),
    "a zero in a text": b'{"prompt":"a\0b"}',
    "an escape that is none": b'{"prompt":"\\x"}',
    "1000 levels": written(Deep(1000, "[", "]")),
    "100000 levels": written(Deep(100_000, "[", "]")),
    "two million levels": b"[" * (FULL // 2),
    "a million levels of objects": b'{"a":' * (FULL // 5),
    "quotes by the million": b'{"' + b'\\"' * (FULL // 2),
    "colons by the million": b'{"a"' + b":" * (FULL // 2),
    "spaces by the million": b" " * FULL,
}
TRICKS = {
    "a name twice": raw('"seed":1,"seed":2'),
    "a model twice": raw('"model":"","model":"good"'),
    "NaN": raw('"temperature":NaN'),
    "infinity": raw('"temperature":-Infinity'),
    "a number over all": raw('"temperature":1e999'),
    "a number of 1000 zeros": raw('"seed":1' + "0" * 1000),
    "a number of 5000 zeros": raw('"seed":1' + "0" * 5000),
    "an integer of 4 MB": b'{"seed":' + LONG_NUMBER[:-20] + b"}",
    "a fraction of 4 MB": b'{"temperature":0.' + LONG_NUMBER[:-30] + b"}",
    "an exponent of 4 MB": b'{"temperature":1e' + LONG_NUMBER[:-30] + b"}",
    "a fraction of tokens": body(max_tokens=1.5),
    "true for a number": body(n=True),
    "a text for a number": body(n="2"),
    "a number for a text": raw('"model":7'),
    "an object for a text": raw('"stop":{"a":1}'),
    "half a character in the prompt": b'{"prompt":' + HALF.encode() + b"}",
    "half a character in a stop string": raw(f'"stop":{HALF}'),
    "half a character in a name": raw('"\\ud800":1'),
    "prompts in prompts": written({"prompt": Many([1, 2], FULL - 64)}),
    "prompts by the million": written({"prompt": Many("x", FULL - 64)}),
    "a prompt of numbers and texts": written({"prompt": [1, "a"]}),
    "a prompt of true": written({"prompt": [True, True]}),
    "names by the hundred thousand": names(300_000),
    "a name of 4 MB": b'{"' + b"a" * (FULL - 64) + b'":1}',
    "half a character in a message": b'{"messages":[{"role":"user","content":%s}]}' % HALF.encode(),
    "biases by the hundred thousand": body(logit_bias={str(i): 1 for i in range(200_000)}),
    "biases without a number": body(logit_bias={"x" * 1000: 1}),
    "a bias for a token of 20 digits": body(logit_bias={"9" * 20: 1}),
}
CHATS = {
    "no messages": {"messages": []},
    "messages that are texts": {"messages": Many("a", FULL - 64)},
    "messages in messages": {"messages": [{"role": "user", "content": Deep(500, "[", "]")}]},
    "parts by the million": {"messages": [{"role": "user", "content": Many({}, FULL - 128)}]},
    "parts that are pictures": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254"}}],
            }
        ]
    },
    "objects in objects": {
        "messages": [{"role": "user", "content": "a"}],
        "chat_template_kwargs": {"a": Deep(500)},
    },
    "tools by the million": {
        "messages": [{"role": "user", "content": "a"}],
        "tools": Many({"type": "function"}, FULL - 128),
    },
    "a tool as long as a message": {
        "messages": [{"role": "user", "content": "a"}],
        "tools": [
            {"type": "function", "function": {"name": "f", "description": Long("a", FULL - 256)}}
        ],
    },
    "calls by the million": {
        "messages": [{"role": "assistant", "tool_calls": Many({}, FULL - 128)}]
    },
}


def sent(arena: Arena, server: ServerProcess, path: str, data: bytes) -> list[Outcome]:
    return arena.attackers.post(server.http_target, [(path, data)] * 3, "attacker").result(60)


def refused(arena: Arena, server: ServerProcess, bodies: Mapping[str, bytes], *paths: str) -> str:
    """Each must be refused at each of the paths. Two of a caller's are parsed at once."""
    posts = [(path, data) for data in bodies.values() for path in paths]
    outcomes = arena.attackers.post(server.http_target, posts, "attacker").result(60)
    names = [name for name in bodies for _ in paths]
    for name, one in zip(names, outcomes, strict=True):
        assert one.code == REFUSED, f"{name}: {one.code} {one.details}"
    return expect(outcomes, REFUSED)


NO_REQUESTS, TRICKY = grouped(NO_JSON), grouped(TRICKS)


@pytest.mark.parametrize("group", NO_REQUESTS)
def test_bodies_that_are_no_request(arena: Arena, group: str) -> None:
    arena.withstand(
        f"HTTP, no JSON: {group}",
        lambda server: refused(arena, server, NO_REQUESTS[group], CHAT, COMPLETIONS),
    )


@pytest.mark.parametrize("group", TRICKY)
def test_bodies_with_tricks(arena: Arena, group: str) -> None:
    arena.withstand(
        f"HTTP, JSON: {group}",
        lambda server: refused(arena, server, TRICKY[group], COMPLETIONS, COMPLETIONS),
    )


CHATTY = grouped({name: written(fields) for name, fields in CHATS.items()})


@pytest.mark.parametrize("group", CHATTY)
def test_chats(arena: Arena, group: str) -> None:
    arena.withstand(
        f"HTTP, chat: {group}", lambda server: refused(arena, server, CHATTY[group], CHAT, CHAT)
    )


def test_half_a_character(arena: Arena) -> None:
    """It has no bytes: what logs, errors and headers would fail of."""
    bodies = {
        where: raw(f'"{where}":{HALF}')
        for where in ("model", "request_id", "user", "cache_salt", "unknown")
    }
    arena.withstand(
        "HTTP, JSON: half a character",
        lambda server: refused(arena, server, bodies, COMPLETIONS),
    )


SMALL: tuple[Any, ...] = (0, 0.5, [], {}, "", None)


def test_six_bodies_of_numbers_at_once(arena: Arena) -> None:
    """What takes longest to read."""
    bodies = [written({"prompt": Many(v, FULL - 64)}) for v in SMALL]

    def attack(server: ServerProcess) -> str:
        posts = [(COMPLETIONS, one) for one in bodies * 2]
        outcomes = arena.attackers.post(server.http_target, posts, "attacker").result(60)
        return expect(outcomes, REFUSED)

    arena.withstand("HTTP, JSON: twelve bodies of small values at once", attack)


def test_names_that_are_not_known(arena: Arena) -> None:
    """Told once each, and not for ever: neither the log nor memory grows with them."""

    def attack(server: ServerProcess) -> str:
        before = server.log.stat().st_size
        for batch in range(5):
            posts = [
                (COMPLETIONS, body(**{f"unknown_{batch}_{i}_{j}": 1 for j in range(200)}))
                for i in range(40)
            ]
            outcomes = arena.attackers.post(server.http_target, posts, "attacker").result(60)
            expect(outcomes, "OK", "RESOURCE_EXHAUSTED")
        grown = server.log.stat().st_size - before
        assert grown < 1 << 20, f"the log grew by {grown >> 10} KB"
        return f"40000 names, {grown >> 10} KB of log"

    arena.withstand("HTTP, JSON: names that are not known", attack)


KINDS = {
    "no kind": {"content-type": "x"},
    "a form": {"content-type": "application/x-www-form-urlencoded"},
    "parts": {"content-type": "multipart/form-data; boundary=x"},
    "gzip": {"content-encoding": "gzip"},
    "gzip of gzip": {"content-encoding": "gzip, gzip"},
    "another set of letters": {"content-type": "application/json; charset=utf-7"},
}


def test_bodies_of_other_kinds(arena: Arena) -> None:
    whole = [post(COMPLETIONS, body(), "attacker", **headers) for headers in KINDS.values()]
    requests = [[one.replace(b"\r\n", b"\r\nconnection: close\r\n", 1)] for one in whole]

    def attack(server: ServerProcess) -> str:
        found = map(statuses, said(server.http_port, requests))
        for name, codes in zip(KINDS, found, strict=True):
            allowed = ([200], [400], [415]) if "letters" in name else ([400], [415])
            assert codes in allowed, f"{name}: {codes}"
        return f"{len(requests)} kinds"

    arena.withstand("HTTP, bodies of other kinds", attack)


TOKENS = {
    "a prompt of 4 MB": (TOKENIZE, written({"prompt": Long("a ")})),
    "a prompt of spaces": (TOKENIZE, written({"prompt": Long(" ")})),
    "messages by the million": (TOKENIZE, written({"messages": Many({}, FULL - 64)})),
    "half a character": (TOKENIZE, b'{"prompt":' + HALF.encode() + b"}"),
    "tokens by the million": (DETOKENIZE, written({"tokens": Many(3, FULL - 64)})),
    "tokens that are none": (DETOKENIZE, written({"tokens": [2**31, -1]})),
    "a token of 100 digits": (DETOKENIZE, written({"tokens": [10**100]})),
}


@pytest.mark.parametrize("name", TOKENS)
def test_tokens_and_back(arena: Arena, name: str) -> None:
    path, data = TOKENS[name]

    def attack(server: ServerProcess) -> str:
        return expect(sent(arena, server, path, data), REFUSED)

    arena.withstand(f"HTTP, {path}: {name}", attack)


def test_adapters_of_others(arena: Arena) -> None:
    """Their tokenizers are theirs."""
    asked = [
        (TOKENIZE, json.dumps({"model": "good", "prompt": "x"}).encode()),
        (DETOKENIZE, json.dumps({"model": "good", "tokens": [3]}).encode()),
    ]

    def attack(server: ServerProcess) -> str:
        outcomes = arena.attackers.post(server.http_target, asked, "attacker").result(60)
        return expect(outcomes, "PERMISSION_DENIED")

    arena.withstand("HTTP, scopes: tokens of others", attack)
