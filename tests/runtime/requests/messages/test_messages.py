"""Turns with parts, calls, tools and documents: templates get them as transformers gives them, in
this process and in a worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_runtime import (
    ChatMessage,
    ContentPart,
    Engine,
    EngineConfig,
    InvalidRequestError,
    NamedTool,
    Request,
    SamplingParams,
    ToolCall,
)
from lora_runtime.api.messages import MAX_PARTS, MAX_TOOL_CHARACTERS
from lora_runtime.requests.prompts.tokenization import encode, render_chat

from ....support.adapters import save_adapter
from ....support.models import VOCAB, make_tokenizer, save_base

HERMES = """{%- if tools %}<|im_start|>system
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools><|im_end|>
{% endif %}{% for m in messages %}
{%- if m.role == 'tool' %}<|im_start|>user
<tool_response>
{{ m.content }}
</tool_response><|im_end|>
{% else %}<|im_start|>{{ m.role }}
{%- if m.reasoning_content %}
<think>{{ m.reasoning_content }}</think>{% endif %}
{{ m.content }}{% for call in m.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}{% for d in documents or [] %}[{{ d.title }}]{% endfor %}"""
LLAMA = """{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>

{% if 'tool_calls' in m %}{% set call = m.tool_calls[0].function %}{"name": "{{ call.name }}", \
"parameters": {{ call.arguments | tojson }}}{% elif m.content is mapping or m.content is iterable \
and m.content is not string %}{{ m.content | tojson }}{% else %}{{ m['content'] | trim }}{% endif %}\
<|eot_id|>{% endfor %}"""
MISTRAL = """{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]\
{% elif m.tool_calls %}[TOOL_CALLS][{% for c in m.tool_calls %}{{ c.function | tojson }}\
{% if not loop.last %}, {% endif %}{% endfor %}]{% elif m.role == 'tool' %}[TOOL_RESULTS]\
{"content": {{ m.content | tojson }}, "call_id": "{{ m.tool_call_id }}"}[/TOOL_RESULTS]\
{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"""
DEEPSEEK = """{% for m in messages %}{{ m.role }}:{% for c in m.tool_calls or [] %}\
{{ c.function.name + '\\n' + c.function.arguments }}{% endfor %}{{ m.content }}{% endfor %}"""
STRICT = """{% for m in messages %}{% for c in m.tool_calls or [] %}{% if c.id | length != 9 %}\
{{ raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}{% endif %}\
{{ c.function.name + c.function.arguments }} {{ c.id }};{% endfor %}{{ m.tool_call_id }};{% endfor %}"""
PARTS = """{% for m in messages %}<{{ m.role }}>{% for part in m.content %}\
{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}"""
BOTH = """{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% else %}\
{% for part in m.content %}({{ part.text }}){% endfor %}{% endif %}{% endfor %}"""
ROLES = """{% for m in messages %}{% if m.role in ('system', 'user') %}<{{ m.role }}>{{ m.content }}\
{% endif %}{% endfor %}"""
FIRM = """{% for m in messages %}{% if m.role not in ('system', 'user') %}\
{{ raise_exception('no such role') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"""
TEMPLATES = {
    "hermes": HERMES,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "deepseek": DEEPSEEK,
    "strict": STRICT,
    "parts": PARTS,
    "both": BOTH,
    "roles": ROLES,
    "firm": FIRM,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "It says how it is.",
        "parameters": {
            "type": "object",
            "properties": {"zz": {"default": 1.0}, "a": {"maximum": 10}},
        },
    },
}
ARGUMENTS = {"zz": 1.0, "a": [1, "ü"]}
ASKED = ChatMessage("user", "How is it?")
CALLED = ChatMessage(
    "assistant", tool_calls=(ToolCall("weather", ARGUMENTS, "call_1"),), reasoning_content="Hm."
)
TOLD = ChatMessage("tool", "5", name="weather", tool_call_id="call_1")
IN_PARTS = ChatMessage("user", (ContentPart("How is it"), ContentPart("there?")))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """With an adapter for each template."""
    base = save_base(tmp_path_factory.mktemp("messages") / "base", layers=1, chat=True)
    config = EngineConfig(dtype="float32", kv_cache_bytes=16 << 20, max_context=2048)
    with Engine(longer(base), config) as engine:
        for name, template in TEMPLATES.items():
            directory = save_adapter(base, tmp_path_factory.mktemp("own") / name, r=2)
            (directory / "chat_template.jinja").write_text(template)
            engine.load_adapter(directory, name)
        yield engine


def longer(base: Path) -> Path:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
    return base


def text_of(engine: Engine, name: str, *messages: ChatMessage, **fields: Any) -> str:
    """The same in this process and in a worker."""
    request = Request(
        messages=messages, adapter_id=name, sampling=SamplingParams(max_new_tokens=1), **fields
    )
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATES[name]
    text = render_chat(request, tokenizer)
    handle = engine.submit(request)
    handle.cancel()
    assert handle.prompt_token_ids == encode(request, tokenizer, VOCAB, 2048)
    return text


def theirs(name: str, turns: list[dict[str, Any]], **options: Any) -> str:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATES[name]
    text = tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True, **options
    )
    assert isinstance(text, str)
    return text


def turns() -> list[dict[str, Any]]:
    function = {"name": "weather", "arguments": ARGUMENTS}
    call = {"id": "call_1", "type": "function", "function": function}
    return [
        {"role": "user", "content": "How is it?"},
        {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [call]},
        {"role": "tool", "content": "5", "name": "weather", "tool_call_id": "call_1"},
    ]


@pytest.mark.parametrize("name", ["hermes", "llama", "mistral"])
@pytest.mark.parametrize("as_text", [False, True], ids=["object", "JSON"])
def test_a_call_and_its_answer(engine: Engine, name: str, as_text: bool) -> None:
    arguments = json.dumps(ARGUMENTS) if as_text else ARGUMENTS
    called = ChatMessage(
        "assistant",
        "",
        tool_calls=(ToolCall("weather", arguments, "call_1"),),
        reasoning_content="Hm.",
    )
    tools = (json.dumps(TOOL) if as_text else TOOL,)
    text = text_of(engine, name, ASKED, called, TOLD, tools=tools)
    assert text == theirs(name, turns(), tools=[TOOL])
    assert '"zz": 1.0, "a": [1, "ü"]' in text


def test_arguments_as_texts_where_a_template_wants_these(engine: Engine) -> None:
    text = text_of(engine, "deepseek", ASKED, CALLED, TOLD)
    assert text == 'user:How is it?assistant:weather\n{"zz": 1.0, "a": [1, "ü"]}tool:5'


def test_short_ids_where_a_template_wants_these(engine: Engine) -> None:
    _, called, own, told, _ = text_of(engine, "strict", ASKED, CALLED, TOLD).split(";")
    assert called == f'weather{{"zz": 1.0, "a": [1, "ü"]}} {told}'
    assert (len(told), own) == (9, "")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", "<|im_start|>developerBe brief."),
        ("parts", "<developer>Be brief.<user>How is it?"),
        ("roles", "<system>Be brief.<user>How is it?"),
        ("firm", "<system>Be brief.<user>How is it?"),
    ],
)
def test_a_developer_is_the_system_where_a_template_has_none(
    engine: Engine, name: str, text: str
) -> None:
    assert text in text_of(engine, name, ChatMessage("developer", "Be brief."), ASKED)


def test_a_template_that_fails_in_any_form(engine: Engine) -> None:
    """It is told what the first one made of it."""
    request = Request(messages=(ASKED, ChatMessage("assistant", tool_calls=(ToolCall("f"),))))
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[1].tool_calls %}{{ raise_exception('no calls') }}{% endif %}"
    )
    with pytest.raises(InvalidRequestError, match="no calls"):
        render_chat(request, tokenizer)


def test_no_arguments(engine: Engine) -> None:
    called = ChatMessage("assistant", tool_calls=(ToolCall("weather"),))
    assert '"arguments": {}' in text_of(engine, "hermes", ASKED, called)


def test_documents(engine: Engine) -> None:
    documents = ({"title": "b"}, '{"title": "a"}')
    assert text_of(engine, "hermes", ASKED, documents=documents).endswith("[b][a]")


@pytest.mark.parametrize(
    ("name", "in_parts", "in_one"),
    [
        ("hermes", "How is it\nthere?", "How is it?"),
        ("llama", "How is it\nthere?", "How is it?"),
        ("parts", "<user>How is itthere?", "<user>How is it?"),
        ("both", "<user>(How is it)(there?)", "<user>How is it?"),
    ],
)
def test_contents_as_a_template_takes_them(
    engine: Engine, name: str, in_parts: str, in_one: str
) -> None:
    assert in_parts in text_of(engine, name, IN_PARTS)
    assert in_one in text_of(engine, name, ASKED)


@pytest.mark.parametrize("name", ["hermes", "parts"])
def test_a_begun_answer_in_parts(engine: Engine, name: str) -> None:
    begun = ChatMessage("assistant", (ContentPart("It"), ContentPart("is")))
    text = text_of(engine, name, ASKED, begun, continue_final_message=True)
    assert text.endswith(("It\nis", "Itis"))


def called(*calls: ToolCall) -> dict[str, Any]:
    return {"messages": (ChatMessage("assistant", tool_calls=calls),)}


IMAGE = (ContentPart("a"), ContentPart(type="image_url"))
DEEP: Any = {}
for _ in range(40):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    ("field", "text", "fields"),
    [
        ("messages", "[0].content[1] has type 'image_url'", {"messages": (ChatMessage("user", IMAGE),)}),
        ("messages", "[0].tool_calls[0] has type 'custom'", called(ToolCall("f", type="custom"))),
        ("messages", "has no name", called(ToolCall(""))),
        ("messages", "is no JSON text", called(ToolCall("f", "{"))),
        ("messages", "must be an object", called(ToolCall("f", "[]"))),
        ("messages", "NaN is no JSON number", called(ToolCall("f", '{"a": NaN}'))),
        ("messages", "32 levels", called(ToolCall("f", DEEP))),
        ("messages", f"at most {MAX_PARTS}", {"messages": (ChatMessage("a", (ContentPart(),) * (MAX_PARTS + 1)),)}),
        ("tools", "at most 128 tools", {"tools": ({},) * 129}),
        ("documents", "at most 128 documents", {"documents": ({},) * 129}),
        ("tools", "characters", {"tools": ('"' + "x" * 7 * MAX_TOOL_CHARACTERS,)}),
        ("tools", "characters", {"tools": (TOOL | {"x": "x" * MAX_TOOL_CHARACTERS},)}),
        ("tools", "16384 values", {"tools": ('{"a": [' + "0," * 70_000 + "0]}",)}),
        ("messages", "16384 values", called(ToolCall("f", '{"a": [' + "0," * 20_000 + "0]}"))),
        ("messages", "characters", called(*(ToolCall("f", '{"a": "%s"}' % ("x" * 99_999)),) * 6)),
        ("tools", "levels", {"tools": ("[" * 100_000,)}),
        ("tools", "[1] has type 'web_search'", {"tools": (TOOL, {"type": "web_search"})}),
        ("tools", "[0] needs a name", {"tools": ({"type": "function", "function": {}},)}),
        ("tools", "[0].function must be an object", {"tools": ({"function": 5},)}),
        ("tools", "parameters must be an object", {"tools": ({"name": "f", "parameters": []},)}),
        ("tools", "chat_template_kwargs", {"tools": (TOOL,), "chat_template_kwargs": {"tools": []}}),
        ("documents", "chat_template_kwargs", {"documents": ({},), "chat_template_kwargs": {"documents": None}}),
        ("tools", "needs messages", {"tools": (TOOL,), "messages": None, "prompt": "x"}),
        ("tool_choice", "no tool is named 'g'", {"tools": (TOOL,), "tool_choice": NamedTool("g")}),
        ("tool_choice", "'any'", {"tools": (TOOL,), "tool_choice": "any"}),
        ("tool_choice", "needs tools", {"tool_choice": "required"}),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_is_named(field: str, text: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as error:
        Request(**({"messages": (ASKED,)} | fields)).validate()
    (violation,) = error.value.violations
    assert violation.field == field
    assert text in violation.description
