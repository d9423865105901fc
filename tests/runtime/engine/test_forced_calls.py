"""Tool choices that make an answer a call: whatever the model would write, it is one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from lora_runtime import (
    ChatMessage,
    Engine,
    EngineConfig,
    FinishReason,
    InvalidRequestError,
    NamedTool,
    Request,
    SamplingParams,
    StructuredAnswer,
)
from lora_runtime.requests.messages.forced_calls import calls_schema

from ...support.models import save_base

POINT: dict[str, Any] = {
    "type": "object",
    "properties": {"x": {"$ref": "#/$defs/digit"}, "on": {"type": "boolean"}},
    "required": ["x", "on"],
    "additionalProperties": False,
    "$defs": {"digit": {"type": "integer", "minimum": 0, "maximum": 9}},
}
TOOLS: tuple[dict[str, Any], ...] = (
    {"type": "function", "function": {"name": "go", "parameters": POINT}},
    {"type": "function", "function": {"name": "look", "parameters": POINT}},
)
PARAMETERS = {"go": POINT, "look": POINT}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    base = save_base(tmp_path_factory.mktemp("forced") / "base", layers=1)
    with Engine(base, EngineConfig(dtype="float32", kv_cache_bytes=8 << 20)) as engine:
        yield engine


def ask(choice: str | NamedTool, seed: int = 0, tokens: int = 300, **fields: Any) -> Request:
    sampling = SamplingParams(max_new_tokens=tokens, temperature=1.0, seed=seed)
    given: dict[str, Any] = {"tools": TOOLS, "sampling": sampling, "parse_answer": True}
    return Request(messages=(ChatMessage("user", "Hi"),), tool_choice=choice, **given | fields)


@pytest.mark.parametrize("seed", [1, 2])
def test_required(engine: Engine, seed: int) -> None:
    done = engine.generate(ask("required", seed, parallel_tool_calls=False)).choices[0]
    assert done.message is not None
    assert done.finish_reason is FinishReason.EOS
    assert done.message.content == ""
    (call,) = done.message.tool_calls
    jsonschema.validate(call.values(), PARAMETERS[call.name])
    jsonschema.validate(json.loads(done.text), calls_schema(TOOLS, parallel=False))


def test_named(engine: Engine) -> None:
    done = engine.generate(ask(NamedTool("look"))).choices[0]
    assert done.message is not None
    (call,) = done.message.tool_calls
    assert (call.name, call.arguments) == ("look", done.text)
    jsonschema.validate(call.values(), POINT)


def test_the_form_holds_without_a_message(engine: Engine) -> None:
    done = engine.generate(ask(NamedTool("go"), parse_answer=False)).choices[0]
    assert done.message is None
    jsonschema.validate(json.loads(done.text), POINT)


def test_without_parameters_it_is_any_object(engine: Engine) -> None:
    bare = ({"type": "function", "function": {"name": "f"}},)
    done = engine.generate(ask(NamedTool("f"), tokens=2, tools=bare)).choices[0]
    assert done.text.startswith("{")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sampling": SamplingParams(structured=StructuredAnswer("json_object"))}, "structured"),
        ({"tools": ()}, "tool_choice"),
        (
            {"tools": (TOOLS[0] | {"function": {"name": "f", "parameters": {"type": 1}}},)},
            "tools",
        ),
    ],
    ids=["two forms", "no tools", "no schema"],
)
def test_what_cannot_be_held(engine: Engine, change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        engine.submit(ask("required", **change))
    assert [one.field for one in raised.value.violations] == [field]


@pytest.mark.parametrize("choice", ["required", NamedTool("go")], ids=["required", "named"])
def test_parameters_with_a_name_of_their_own(engine: Engine, choice: str | NamedTool) -> None:
    """References within them are to them all the same."""
    tool = {"name": "go", "parameters": POINT | {"$id": "https://example.com/point.json"}}
    done = engine.generate(
        ask(choice, tools=({"function": tool},), parallel_tool_calls=False)
    ).choices[0]
    assert done.message is not None
    (call,) = done.message.tool_calls
    jsonschema.validate(call.values(), POINT)


def test_auto_and_none_hold_nothing() -> None:
    assert not ask("auto").is_constrained
    assert not ask("none").is_constrained
    assert not ask("").is_constrained
