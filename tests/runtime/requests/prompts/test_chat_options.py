"""Chats that go on with a begun answer, and values for chat templates: rendered as transformers does,
in this process and in a worker."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_runtime import (
    ChatMessage,
    Engine,
    EngineConfig,
    InvalidRequestError,
    Request,
    SamplingParams,
)
from lora_runtime.api.template_values import MAX_TEMPLATE_CHARACTERS, MAX_TEMPLATE_VALUES
from lora_runtime.foreign.templates import render
from lora_runtime.requests.prompts.tokenization import encode

from ....support.adapters import save_adapter
from ....support.models import VOCAB, make_tokenizer

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<bot>{% endif %}"
    "{% if thinking is defined %}[{{ thinking }} {{ thinking.deep[0] + 1 }}]{% endif %}"
    "{{ tools | tojson if tools else '' }}{{ eos_token }}"
)
TEMPLATES = {
    "own": TEMPLATE,
    "fixed": "{{ messages[0].role }} content",
    "long": "{{ 'a ' * count }}",
}
SHORT = SamplingParams(max_new_tokens=1, ignore_eos=True)
BEGUN = (ChatMessage("user", "Hi"), ChatMessage("assistant", "It is "))
ASKED = BEGUN[:1]
VALUES: list[dict[str, Any]] = [
    {},
    {"thinking": {"deep": [1, 2.5, None, True, "日"]}},
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
    {"eos_token": "!", "unknown": ()},
    {"eos_token": None, "add_bos_token": False},
]


def expected(messages: tuple[ChatMessage, ...], **fields: Any) -> tuple[int, ...]:
    tokenizer = make_tokenizer()
    turns = [{"role": m.role, "content": str(m.content)} for m in messages]
    ids = tokenizer.apply_chat_template(turns, chat_template=TEMPLATE, return_dict=False, **fields)
    return tuple(ids)


def here(request: Request, template: str = TEMPLATE) -> tuple[int, ...]:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return encode(request, tokenizer, VOCAB, 512)


@pytest.fixture(scope="module")
def engine(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """With an adapter for each template."""
    with Engine(tiny_base, EngineConfig(dtype="float32", kv_cache_bytes=8 << 20)) as engine:
        for name, template in TEMPLATES.items():
            directory = save_adapter(tiny_base, tmp_path_factory.mktemp("chat") / name, r=2)
            (directory / "chat_template.jinja").write_text(template)
            engine.load_adapter(directory, name)
        yield engine


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("continues", [False, True])
def test_as_transformers_renders_it(
    engine: Engine, values: dict[str, Any], continues: bool
) -> None:
    messages = BEGUN if continues else ASKED
    how = {"add_generation_prompt": not continues, "continue_final_message": continues}
    ids = expected(messages, **how, **values)
    fields: dict[str, Any] = {"continue_final_message": continues, "chat_template_kwargs": values}
    assert here(Request(messages=messages, **fields)) == ids
    request = Request(messages=messages, adapter_id="own", sampling=SHORT, **fields)
    assert engine.submit(request).prompt_token_ids == ids


def test_prepared_chats_are_not_mixed_up(engine: Engine) -> None:
    """One conversation, prepared in several ways before any is submitted."""
    ways: list[dict[str, Any]] = [
        {"chat_template_kwargs": {"eos_token": text}, "continue_final_message": continues}
        for text in "ab"
        for continues in (False, True)
    ]
    requests = [Request(messages=BEGUN, adapter_id="own", sampling=SHORT, **way) for way in ways]
    for request in requests:
        engine.prepare(request).result(30)
    found = [engine.submit(request).prompt_token_ids for request in requests]
    assert found == [here(request) for request in requests]


def test_the_answer_has_what_is_new_alone(engine: Engine) -> None:
    sampling = SamplingParams(max_new_tokens=6, ignore_eos=True)
    begun = engine.generate(
        Request(messages=BEGUN, continue_final_message=True, sampling=sampling)
    ).choices[0]
    text = "<user>Hi\n<assistant>It is "
    assert (
        begun.token_ids
        == engine.generate(Request(prompt=text, sampling=sampling)).choices[0].token_ids
    )


@pytest.mark.parametrize(
    "messages", [None, ASKED, (*BEGUN, *ASKED), (ChatMessage("system", "It is "),)]
)
def test_a_last_message_that_cannot_go_on_is_refused(messages: Any) -> None:
    prompt = "x" if messages is None else None
    with pytest.raises(InvalidRequestError) as refusal:
        Request(prompt=prompt, messages=messages, continue_final_message=True).validate()
    assert [v.field for v in refusal.value.violations] == ["continue_final_message"]


def test_a_template_that_drops_the_last_message_refuses_it(engine: Engine) -> None:
    request = Request(
        messages=(*ASKED, ChatMessage("assistant", "x" * 4000)),
        adapter_id="fixed",
        continue_final_message=True,
    )
    for refused in (lambda: engine.submit(request), lambda: here(request, "fixed content")):
        with pytest.raises(InvalidRequestError, match="does not appear in the chat") as refusal:
            refused()
        (violation,) = refusal.value.violations
        assert violation.field == "continue_final_message"
        assert len(violation.description) < 500


def test_what_a_value_makes_of_a_template_is_limited(engine: Engine) -> None:
    request = Request(
        messages=ASKED, adapter_id="long", chat_template_kwargs={"count": 800_000}, sampling=SHORT
    )
    with pytest.raises(InvalidRequestError, match="'long' makes a text of 1600000 characters"):
        engine.submit(request)


NO_OBJECTS: tuple[Any, ...] = (5, "ab", {"a": 1}, ["a"], [[]])
CYCLE: dict[str, Any] = {}
CYCLE["a"] = CYCLE
WRONG = [
    *({name: 1} for name in ("messages", "tokenize", "add_generation_prompt", "return_dict")),
    *({name: 1} for name in ("tokenizer", "continue_final_message", "chat_template", "self")),
    *({name: 1} for name in ("conversation", "conversations", "truncation", "", "a b", 7)),
    {"a": [0] * MAX_TEMPLATE_VALUES},
    {str(i): 0 for i in range(MAX_TEMPLATE_VALUES + 1)},
    {"a": {"b" * MAX_TEMPLATE_CHARACTERS: "x"}},
    {"a": ["x" * 1000] * 40},
    {"eos_token": "x" * 257},
    {"bos_token": ["x" * 1000]},
    CYCLE,
    *({"a": value} for value in (math.nan, math.inf, 1 << 70, b"x", object(), {1: 2}, {1})),
    *({name: v} for name in ("tools", "documents") for v in NO_OBJECTS),
    ["a"],
    None,
]


@pytest.mark.parametrize("values", WRONG)
def test_values_that_are_refused(values: Any) -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        Request(messages=ASKED, chat_template_kwargs=values).validate()
    assert [v.field for v in refusal.value.violations] == ["chat_template_kwargs"]
    with pytest.raises(InvalidRequestError, match="chat_template_kwargs: needs messages"):
        Request(prompt="x", chat_template_kwargs={"a": 1}).validate()


@pytest.mark.parametrize("template", [TEMPLATE, "{{ x }} {{ messages[0].content }}"])
def test_halves_of_characters_are_refused(template: str) -> None:
    half = (ChatMessage("user", "\ud83d"),)
    for request in (
        Request(messages=half),
        Request(prompt="\ud83d"),
        Request(messages=ASKED, chat_template_kwargs={"x": "\ud83d", "eos_token": "\ud83d"}),
    ):
        with pytest.raises(InvalidRequestError, match="halves of characters"):
            here(request, template)


def test_values_at_their_limits_are_taken() -> None:
    deep: Any = 1
    for _ in range(15):
        deep = [deep]
    most = {"a": [0] * (MAX_TEMPLATE_VALUES - 18), "b": deep, "c" * 30_000: 1 << 63}
    Request(messages=ASKED, chat_template_kwargs=most).validate()


def test_special_tokens_do_not_take_other_names() -> None:
    """An adapter's author names special tokens; a worker's rendering refuses what is in its way."""
    from lora_runtime.foreign.worker import RefusedError

    messages = [{"role": "user", "content": "Hi"}]
    for name in ("add_generation_prompt", "conversations"):
        with pytest.raises(RefusedError, match="multiple values"):
            render(TEMPLATE, messages, {name: "x"}, 100)
