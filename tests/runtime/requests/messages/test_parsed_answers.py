"""Messages of a handle's events: whole, as they come, and where reading fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from lora_runtime import (
    FinishReason,
    ParsedMessage,
    Request,
    RequestHandle,
    SamplingParams,
    TokenEvent,
    Usage,
)
from lora_runtime.api.answers import Timings
from lora_runtime.api.parsed import joined
from lora_runtime.foreign.answer_workers import AnswerWorkers
from lora_runtime.foreign.process import WORKERS, WorkLimits
from lora_runtime.requests.messages.parsing import MessageParser
from lora_runtime.requests.messages.template_parser import Reading, TemplateParser
from lora_runtime.requests.text.shown_text import ShownText

from ....support.models import EOS, make_tokenizer
from ....support.response_templates import KINDS, TOOLS, Kind

SLOW = {
    "start_anchor": "[/INST]",
    "fields": {"tool_calls": {"open_pattern": "(a|aa)+$", "content": "json"}, "content": {}},
}
HUNGRY = {
    "start_anchor": "[/INST]",
    "fields": {"tool_calls": {"open_pattern": "(?:x+x+){40}y|" + "(?:x?){30}z", "content": "json"}},
}


@pytest.fixture(scope="module", autouse=True)
def _workers() -> Iterator[None]:
    use = WORKERS.use()
    WORKERS.worker().close()
    yield
    use.close()


@pytest.fixture(scope="module")
def workers() -> Iterator[AnswerWorkers]:
    workers = AnswerWorkers(WorkLimits(30.0, 256 << 20))
    yield workers
    workers.close()


def parser_of(
    workers: AnswerWorkers, kind: Kind, choices: int = 1, all_calls: bool = True
) -> TemplateParser:
    reading = Reading("key", kind.template, kind.prompt, TOOLS, True, all_calls)
    tokenizer = make_tokenizer()
    texts = [ShownText(tokenizer, (), SamplingParams(), frozenset({EOS})) for _ in range(choices)]
    return TemplateParser(workers, reading, texts)


def handle_of(parser: MessageParser, texts: list[str]) -> RequestHandle:
    """Handle of an answer for each text, that have come already."""
    request = Request(prompt="x", sampling=SamplingParams(n=len(texts)), parse_answer=True)
    handle = RequestHandle(request, "id", (1,), (), lambda _: None, parser=parser)
    for index, text in enumerate(texts):
        for event in events_of(index, text):
            handle.push(event)
    return handle


def ids_of(text: str) -> list[int]:
    """One for each byte."""
    return make_tokenizer()(text, add_special_tokens=False)["input_ids"]


def events_of(index: int, text: str) -> Iterator[TokenEvent]:
    """As the engine gives them: the end of the sequence has no text."""
    data = text.encode()
    for i, token in enumerate(ids_of(text)):
        begun = data[: i + 1].decode(errors="ignore"), data[:i].decode(errors="ignore")
        yield TokenEvent(index, begun[0][len(begun[1]) :], (token,))
    last: dict[str, Any] = {"usage": Usage(1, 0, len(data)), "timings": Timings(0, 0, 0)}
    yield TokenEvent(index, "", (EOS,), finish_reason=FinishReason.EOS, **last)


def expected(kind: Kind) -> tuple[str, str, list[tuple[str, Any]]]:
    return kind.content, kind.reasoning, list(kind.calls)


def shown(message: ParsedMessage | None) -> tuple[str, str, list[tuple[str, Any]]]:
    assert message is not None
    calls = [(call.name, call.arguments) for call in message.tool_calls]
    return message.content, message.reasoning_content, calls


def joined_of(events: list[TokenEvent], index: int = 0) -> ParsedMessage:
    messages = [event.message for event in events if event.index == index]
    assert all(messages), "each event has one"
    return joined([message for message in messages if message])


@pytest.mark.parametrize("name", KINDS)
def test_each_way_to_take_it(workers: AnswerWorkers, name: str) -> None:
    kind = KINDS[name]

    async def taken() -> list[TokenEvent]:
        return [event async for event in handle_of(parser_of(workers, kind), [kind.answer])]

    async def whole() -> Any:
        return await handle_of(parser_of(workers, kind), [kind.answer]).aresult()

    done = handle_of(parser_of(workers, kind), [kind.answer]).result()
    assert shown(done.choices[0].message) == expected(kind)
    assert done.text == kind.answer
    assert shown(asyncio.run(whole()).choices[0].message) == expected(kind)
    events = list(handle_of(parser_of(workers, kind), [kind.answer]))
    assert "".join(event.text for event in events) == kind.answer
    assert shown(joined_of(events)) == expected(kind)
    assert shown(joined_of(asyncio.run(taken()))) == expected(kind)


def test_choices_are_read_apart(workers: AnswerWorkers) -> None:
    one, other = KINDS["hermes"], KINDS["no call"]
    handle = handle_of(parser_of(workers, one, choices=2), [one.answer, other.answer])
    assert [shown(c.message) for c in handle.result().choices] == [expected(one), expected(other)]


def test_the_first_call_alone(workers: AnswerWorkers) -> None:
    kind = KINDS["mistral"]
    done = handle_of(parser_of(workers, kind, all_calls=False), [kind.answer]).result()
    assert shown(done.choices[0].message) == ("", "", [kind.calls[0]])


def test_a_call_s_parts(workers: AnswerWorkers) -> None:
    kind = KINDS["hermes"]
    events = list(handle_of(parser_of(workers, kind), [kind.answer]))
    calls = [call for event in events if event.message for call in event.message.tool_calls]
    assert [(call.index, call.name) for call in calls] == [(0, "f"), (1, "g")]
    assert len({call.id for call in calls}) == 2


def test_workers_are_kept(workers: AnswerWorkers) -> None:
    kind = KINDS["no call"]
    handle_of(parser_of(workers, kind), [kind.answer]).result()
    before = workers.take("key")
    assert before is not None
    workers.give_back("key", before)
    handle_of(parser_of(workers, kind), [kind.answer]).result()
    assert workers.take("key") is before


@pytest.mark.parametrize("way", ["sync", "async", "whole"])
def test_a_pattern_without_an_end(
    way: str, caplog: pytest.LogCaptureFixture, workers: AnswerWorkers
) -> None:
    """What it has not read is content; the worker is gone, and not another's."""
    quick = AnswerWorkers(WorkLimits(0.3, 256 << 20))
    text = "aaaa b " + "a" * 60 + "b and more"
    handle = handle_of(parser_of(quick, Kind(SLOW, "[/INST]", text)), [text])

    async def taken() -> list[TokenEvent]:
        return [event async for event in handle]

    with caplog.at_level(logging.WARNING):
        if way == "whole":
            message = handle.result().choices[0].message
        else:
            message = joined_of(list(handle) if way == "sync" else asyncio.run(taken()))
    assert shown(message) == (text, "", [])
    assert "took longer than" in caplog.text
    innocent = KINDS["hermes"]
    done = handle_of(parser_of(workers, innocent), [innocent.answer]).result()
    assert shown(done.choices[0].message) == expected(innocent)
    quick.close()


def test_a_worker_that_dies_and_one_in_a_stranger_s_hands(
    workers: AnswerWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = KINDS["hermes"]
    parser = parser_of(workers, kind)
    handle = handle_of(parser, [kind.answer])
    events = iter(handle)
    first = next(events)
    assert parser._worker is not None
    parser._worker.interrupt()
    assert joined_of([first, *events]).content.endswith("</tool_call>")
    reads: list[Any] = [None, [], [{}], [{"content": 1}], ["x"]]
    odd: list[Any] = [None, [], {"read": []}, *({"read": read, "seconds": 0} for read in reads)]
    for answer in odd:
        parser = parser_of(workers, kind)
        monkeypatch.setattr(parser, "_begin", lambda answer=answer: _Odd(answer))
        done = handle_of(parser, [kind.answer]).result()
        assert shown(done.choices[0].message) == (kind.answer, "", [])


class _Odd:
    closed = True

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def ask(self, *_: Any, **__: Any) -> Any:
        return self.answer

    def close(self) -> None:
        pass


def test_a_template_that_is_none(workers: AnswerWorkers) -> None:
    kind = Kind({"fields": 1}, "", "text")
    done = handle_of(parser_of(workers, kind), ["text"]).result()
    assert shown(done.choices[0].message) == ("text", "", [])


def test_a_request_that_is_left(workers: AnswerWorkers) -> None:
    kind = KINDS["hermes"]
    parser = parser_of(workers, kind)
    handle = handle_of(parser, [kind.answer])
    next(iter(handle))
    worker = parser._worker
    assert worker is not None
    handle.cancel()
    assert worker.closed, "it knows what another has asked"


async def test_a_request_that_is_left_while_it_is_read() -> None:
    """By another task: its reader is told at once, and the worker ends."""
    slow = AnswerWorkers(WorkLimits(60.0, 256 << 20))
    text = "a" * 60 + "b"
    parser = parser_of(slow, Kind(SLOW, "[/INST]", text))
    handle = handle_of(parser, [text])
    reading = asyncio.create_task(handle.aresult())
    while parser._asks is None:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    worker = parser._asks
    handle.cancel()
    await asyncio.wait_for(reading, 30)
    assert worker is not None
    assert worker.closed
    slow.close()


def test_a_little_too_long_each_time(
    workers: AnswerWorkers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No answer takes a core for as long as it has tokens."""
    kind = KINDS["no call"]
    parser = parser_of(workers, kind)
    text = {"content": "", "reasoning": "", "calls": [], "settled": 0}
    odd = _Odd({"read": [text] * 32, "seconds": 16.0})
    monkeypatch.setattr(parser, "_begin", lambda: odd)
    workers._logged = float("-inf")
    with caplog.at_level(logging.WARNING):
        events = list(handle_of(parser, [kind.answer * 5]))
    assert "took longer than 30 s in all" in caplog.text
    assert joined_of(events).content == kind.answer * 5


def test_an_idle_worker_that_has_died(workers: AnswerWorkers) -> None:
    kind = KINDS["hermes"]
    handle_of(parser_of(workers, kind), [kind.answer]).result()
    idle = workers.take("key")
    assert idle is not None
    idle.interrupt()
    workers.give_back("key", idle)
    done = handle_of(parser_of(workers, kind), [kind.answer]).result()
    assert shown(done.choices[0].message) == expected(kind)
