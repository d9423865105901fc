"""Response templates of a base and of adapters: whose reads an answer, and what that costs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_runtime import (
    BaseModel,
    BaseModelError,
    ChatMessage,
    Engine,
    EngineConfig,
    FinishReason,
    MessageDelta,
    Request,
    SamplingParams,
    StructuredAnswer,
    TokenEvent,
)
from lora_runtime.api.parsed import joined
from lora_runtime.engine.messages import MessageParsers, notes_on_messages
from lora_runtime.foreign.process import WORKERS
from lora_runtime.requests.messages.parsing import PlainParser

from ...support.adapters import save_adapter
from ...support.models import make_tokenizer, save_base
from ...support.response_templates import KINDS, TOOLS

ALL: dict[str, Any] = {"content": "text", "content_args": {"strip": False}}
BASE = {"start_anchor": "<bot>", "fields": {"content": ALL}}
OWN = {"start_anchor": "<bot>", "fields": {"thinking": ALL}}
WRONG = {"start_anchor": "<bot>", "fields": {"content": {"open": 5}}}
ENDLESS = {
    "start_anchor": "<bot>",
    "fields": {"tool_calls": {"open_pattern": "(?:.|..)*$\\Z.", "content": "json"}, "content": ALL},
}


def save_template(directory: Path, template: Any) -> None:
    """Put it into the configuration of a directory's tokenizer."""
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"response_template": template}))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = save_base(tmp_path_factory.mktemp("response") / "base", layers=1)
    save_template(directory, BASE)
    return directory


@pytest.fixture(scope="module")
def engine(base: Path) -> Iterator[Engine]:
    use = WORKERS.use()
    config = EngineConfig(dtype="float32", kv_cache_bytes=8 << 20, chat_template_timeout_s=0.5)
    with Engine(base, config) as engine:
        yield engine
    use.close()


@pytest.fixture(scope="module")
def add(
    base: Path, engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Any], None]:
    def add(name: str, template: Any) -> None:
        directory = save_adapter(base, tmp_path_factory.mktemp("own") / name, r=2)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (directory / file).write_bytes((base / file).read_bytes())
        save_template(directory, template)
        engine.load_adapter(directory, name)

    return add


def ask(adapter_id: str = "", tokens: int = 12, **fields: Any) -> Request:
    return Request(
        messages=(ChatMessage("user", "Hi"),),
        adapter_id=adapter_id,
        sampling=SamplingParams(max_new_tokens=tokens, ignore_eos=True, skip_special_tokens=False),
        parse_answer=True,
        **fields,
    )


def parts(engine: Engine, request: Request) -> tuple[str, str, str]:
    done = engine.generate(request).choices[0]
    assert done.message is not None
    return done.text, done.message.content, done.message.reasoning_content


def test_the_base_s_own(engine: Engine) -> None:
    text, content, reasoning = parts(engine, ask())
    assert text
    assert (content, reasoning) == (text, "")


def test_an_adapter_s_own(engine: Engine, add: Callable[[str, Any], None]) -> None:
    add("own", OWN)
    text, content, reasoning = parts(engine, ask("own"))
    assert text
    assert (content, reasoning) == ("", text)
    events = list(engine.stream(ask("own")))
    assert "".join(e.message.reasoning_content for e in events if e.message) == text
    assert parts(engine, ask())[2] == ""


@pytest.mark.parametrize("form", ["json_object", "json_schema"])
def test_json_is_content(engine: Engine, add: Callable[[str, Any], None], form: Any) -> None:
    """Also where a prompt has begun to reason, which nothing in it ends."""
    add("own", OWN)
    structured = StructuredAnswer(form, '{"enum": [5]}' if form == "json_schema" else "")
    sampling = SamplingParams(max_new_tokens=12, structured=structured)
    text, content, reasoning = parts(engine, replace(ask("own"), sampling=sampling))
    assert text
    assert (content, reasoning) == (text, "")


@pytest.mark.parametrize("name", ["hermes", "mistral"])
def test_calls_as_they_come(engine: Engine, add: Callable[[str, Any], None], name: str) -> None:
    """From the engine's thread to the message, in the way of a model that writes just that."""
    kind = KINDS[name]
    add(name, kind.template | {"start_anchor": "<bot>"})
    sampling = SamplingParams(
        max_new_tokens=400, structured=StructuredAnswer("choice", choices=(kind.answer,))
    )
    request = replace(ask(name), sampling=sampling, tools=tuple(TOOLS))
    done = engine.generate(request).choices[0]
    assert done.text == kind.answer
    events = list(engine.stream(request))
    for message in (done.message, joined([e.message for e in events if e.message])):
        assert message is not None
        assert (message.content, message.reasoning_content) == (kind.content, kind.reasoning)
        assert [(call.name, call.arguments) for call in message.tool_calls] == [*kind.calls]
    others = replace(request, tools=(), chat_template_kwargs={"tools": TOOLS})
    message = engine.generate(others).choices[0].message
    assert message is not None
    assert [call.name for call in message.tool_calls] == [name for name, _ in kind.calls]
    untaken = engine.generate(replace(request, tool_choice="none")).choices[0].message
    assert untaken is not None
    assert not untaken.tool_calls
    assert untaken.content == kind.answer.rpartition("</think>")[2].strip()


def test_one_that_is_wrong_is_noted(engine: Engine, add: Callable[[str, Any], None]) -> None:
    """It is not used, and the base's is."""
    add("wrong", WRONG)
    (info,) = (info for info in engine.list_adapters() if info.adapter_id == "wrong")
    assert any("response template of its tokenizer is not used" in note for note in info.notes)
    text, content, _ = parts(engine, ask("wrong"))
    assert content == text


def test_one_without_an_end(engine: Engine, add: Callable[[str, Any], None]) -> None:
    add("endless", ENDLESS)
    text, content, _ = parts(engine, ask("endless", tokens=60))
    assert content == text


@pytest.mark.parametrize("field", ["prompt", "token_ids"])
def test_other_prompts_are_read_too(engine: Engine, field: str) -> None:
    given: Any = {"prompt": "<bot>", "token_ids": (1, 2)}[field]
    request = Request(
        **{field: given}, parse_answer=True, sampling=SamplingParams(max_new_tokens=4)
    )
    done = engine.generate(request).choices[0]
    assert done.message is not None


def test_a_base_whose_calls_stay_text_is_noted() -> None:
    tokenizer = make_tokenizer()
    assert notes_on_messages(tokenizer) == ()
    tokenizer.chat_template += "{% for tool in tools %}{% endfor %}"
    assert "calls in its answers stay text" in notes_on_messages(tokenizer)[0]
    tokenizer.response_template = BASE
    assert notes_on_messages(tokenizer) == ()


def test_an_answer_without_a_template_needs_no_worker() -> None:
    parsers = MessageParsers(EngineConfig())
    parser = parsers.of(ask(), make_tokenizer(), (1,), "x", frozenset())
    parsers.close()
    assert isinstance(parser, PlainParser)
    event = TokenEvent(0, "ab", (1, 2), finish_reason=FinishReason.EOS)
    assert parser.read([event]) == [replace(event, message=MessageDelta("ab"))]


def test_nothing_is_read_unless_it_is_wanted(engine: Engine) -> None:
    handle = engine.submit(Request(prompt="x", sampling=SamplingParams(max_new_tokens=2)))
    assert all(event.message is None for event in handle)


def test_a_file_in_the_place_of_the_base_s_own(base: Path, tmp_path: Path) -> None:
    file = tmp_path / "template.json"
    file.write_text(json.dumps(OWN))
    config = EngineConfig(dtype="float32", kv_cache_bytes=1 << 20, response_template=str(file))
    with Engine(base, config) as engine:
        text, content, reasoning = parts(engine, ask())
    assert text
    assert (content, reasoning) == ("", text)


@pytest.mark.parametrize("written", ["{", "[]", json.dumps(WRONG), None])
def test_a_file_that_is_none_is_refused(base: Path, tmp_path: Path, written: str | None) -> None:
    """Before the weights are read."""
    file = tmp_path / "template.json"
    if written is not None:
        file.write_text(written)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_bytes((base / "config.json").read_bytes())
    with pytest.raises(BaseModelError, match="cannot be used"):
        BaseModel.load(tmp_path / "base", device="cpu", response_template=str(file))


def test_a_wrong_one_of_the_base_s_own_is_not_used(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "base"
    shutil.copytree(base, directory)
    save_template(directory, WRONG)
    config = EngineConfig(dtype="float32", kv_cache_bytes=1 << 20)
    with Engine(directory, config) as engine:
        text, content, _ = parts(engine, ask())
    assert content == text
    assert "the response template of the base's tokenizer is not used" in caplog.text
