"""Structured answers: schemas, expressions and grammars that take long to compile, or to follow, and tools."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .arena import Arena, expect
from .calls import answer, asked, chat
from .forms import Asked, Many
from .fronts import HTTP, Front, both, over_both
from .server import ServerProcess

pytestmark = pytest.mark.attacks

REFUSED = "INVALID_ARGUMENT"


def schema(**fields: Any) -> dict[str, str]:
    return {"json_schema": json.dumps(fields)}


def levels(count: int) -> str:
    opened = '{"type":"object","additionalProperties":false,"properties":{"a":'
    return opened * count + "{}" + "}}" * count


def crossed(count: int) -> dict[str, str]:
    """Choices that multiply each other."""
    pair = [{"properties": {f"{n}": {"enum": [1, 2]}}, "required": [f"{n}"]} for n in range(2)]
    return schema(allOf=[{"anyOf": [p | {"title": str(i)} for p in pair]} for i in range(count)])


NAMED = {f"n{i}": {"type": "string", "pattern": f"^(a|b){{{i % 50},}}$"} for i in range(900)}
HOSTILE: dict[str, dict[str, Any]] = {
    "an expression of a million letters": {"regex": "(a{1000}){1000}"},
    "an expression with a million ways": {"regex": "(a?){2000}a{2000}"},
    "stars in stars": {"regex": "((a*)*)*" * 500},
    "an expression of all letters": {"regex": r"(\p{L}|\p{N}|\p{P}){1,20000}"},
    "an expression of brackets": {"regex": "(" * 30_000 + ")" * 30_000},
    "an intersection of expressions": {"lark": "start: A\nA: /(.*a.{60}b.*)/ & /(.*b.{60}a.*)/"},
    "a schema of 10000 levels": {"json_schema": levels(10_000)},
    "a schema of 200 levels": {"json_schema": levels(200)},
    "a schema of itself": schema(**{"$ref": "#"}),
    "a schema of each other": schema(
        **{"$ref": "#/$defs/a"},
        **{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    ),
    "a schema elsewhere": schema(**{"$ref": "http://169.254.169.254/latest"}),
    "a schema of a file": schema(**{"$ref": "file:///etc/passwd"}),
    "schemas that multiply": crossed(16),
    "a text of a billion letters": schema(type="string", minLength=10**9),
    "a list of a billion": schema(type="array", items={"type": "null"}, minItems=10**9),
    "a number of a billion steps": schema(type="integer", multipleOf=999_999_937, minimum=10**15),
    "900 patterns": schema(type="object", properties=NAMED, required=list(NAMED)),
    "50000 names": schema(enum=[f"name {i}" for i in range(50_000)]),
    "a grammar of itself": {"lark": "start: start"},
    "a grammar of all ways": {"lark": 'start: start start start | "a" | ""'},
    "a grammar of 4000 rules": {
        "lark": "start: r0\n"
        + "".join(f"r{i}: r{i + 1} r{i + 1}\n" for i in range(4000))
        + 'r4000: "a"'
    },
    "choices of 3 MB": {"choice": {"texts": ["a" * i for i in range(1, 2500)]}},
    "a choice of nothing": {"choice": {"texts": [""]}},
    "nothing": {"regex": ""},
    "what never comes": {"lark": "start: A\nA: /a/ & /b/"},
}


@pytest.fixture(autouse=True)
def compiler(arena: Arena) -> None:
    """The process that compiles: it stays, and its memory is no attack's."""
    answer(arena, arena.server, "attacker", structured={"regex": "a+"})


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_hard_to_compile(arena: Arena, name: str) -> None:
    """Refused, or answered: within a bound of time and memory, and never at another's cost."""
    request = asked(structured=HOSTILE[name], max_new_tokens=20)

    def attack(server: ServerProcess) -> str:
        ended = over_both(arena.attackers, server, [request] * 2, "attacker", timeout=20)
        return expect(ended(), REFUSED, "OK")

    arena.withstand(f"structured: {name}", attack)


@both
def test_ever_other_grammars(arena: Arena, front: Front) -> None:
    """Those that were compiled are kept within a bound, and compiling keeps nobody waiting."""
    requests = [
        asked(structured=schema(type="object", properties={f"n{i}": {"enum": list(range(300))}}))
        for i in range(60)
    ]

    def attack(server: ServerProcess) -> str:
        outcomes = []
        for _ in range(2):
            outcomes += front.send(arena.attackers, server, requests, "attacker", timeout=30)
        return expect(outcomes, "OK", "RESOURCE_EXHAUSTED")

    arena.withstand(front.named("structured: ever other schemas"), attack)


TOOLS = {
    "tools by the million": Asked(
        {**chat().fields, "tools": Many({"type": "function"}, 4_000_000)}
    ),
    "a tool of 1000 levels": chat(
        tools=[
            {"type": "function", "function": {"name": "f", "parameters": json.loads(levels(150))}}
        ]
    ),
    "a tool without a name": chat(tools=[{"type": "function", "function": {}}]),
    "a tool that is named as nothing": chat(
        tools=[{"type": "function", "function": {"name": "\u0000{{7*7}}"}}],
    ),
    "a choice of a tool that is not there": chat(
        tools=[{"type": "function", "function": {"name": "f"}}],
        tool_choice={"type": "function", "function": {"name": "g"}},
    ),
    "parameters that are hard to compile": chat(
        tools=[
            {
                "type": "function",
                "function": {
                    "name": "f",
                    "parameters": {"type": "string", "pattern": "(a?){2000}a{2000}"},
                },
            }
        ],
        tool_choice="required",
    ),
}


@pytest.mark.parametrize("name", TOOLS)
def test_tools(arena: Arena, name: str) -> None:
    def attack(server: ServerProcess) -> str:
        requests = [TOOLS[name]] * 3
        outcomes = HTTP.send(arena.attackers, server, requests, "attacker", timeout=20)
        return expect(outcomes, REFUSED, "OK")

    arena.withstand(f"HTTP, tools: {name}", attack)
