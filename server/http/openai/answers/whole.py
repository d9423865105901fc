"""Whole answers as JSON, in pieces: many logprobs take a second to write."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lora_runtime import (
    AdapterUse,
    ChatMessage,
    Choice,
    Generation,
    RequestHandle,
    Timings,
    Usage,
)

from ..requests.body import Call
from .logprobs import ChatLogprobs, CompletionLogprobs, LogprobWriter, together
from .said import message, reason

_SLICE = 64
"""Tokens of a piece."""
dumps = json.JSONEncoder(separators=(",", ":")).encode
"""Writer of JSON in ASCII: readers of streams that split lines at any Unicode line end would find
one in a text."""


@dataclass(frozen=True)
class Head:
    """What every part of one answer begins with."""

    id: str
    created: int
    """Seconds since the epoch."""
    model: str
    """As the caller named it."""

    def json(self, kind: str) -> str:
        """The beginning of an object: to be gone on with behind a comma."""
        named = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return dumps(named)[:-1]


class Totals:
    """Tokens of all choices of all prompts; each prompt counts once."""

    def __init__(self) -> None:
        self._prompt = self._cached = self._completion = 0
        self.count = 0
        """Choices that have ended."""

    def add(self, usage: Usage, first: bool) -> None:
        """Add a choice; `first` of its prompt."""
        self.count += 1
        self._completion += usage.completion_tokens
        if first:
            self._prompt += usage.prompt_tokens
            self._cached += usage.cached_tokens

    def json(self) -> str:
        return usage_json(self._prompt, self._completion, self._cached)


def usage_json(prompt: int, completion: int, cached: int | None = None) -> str:
    found: dict[str, object] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    if cached is not None:
        found["prompt_tokens_details"] = {"cached_tokens": cached}
    return dumps(found)


def adapters_json(adapters: Iterable[AdapterUse]) -> str:
    return dumps([vars(use) for use in adapters])


def timings_json(timings: Timings) -> str:
    return dumps({name: round(seconds, 6) for name, seconds in vars(timings).items()})


@dataclass(frozen=True)
class Running:
    """A prompt's request, and what is to come before the new text of each choice."""

    handle: RequestHandle
    echo: str = ""


def writer(call: Call, handle: RequestHandle) -> LogprobWriter:
    """Make the writer of one choice's log probabilities."""
    as_ids = call.options.return_tokens_as_token_ids
    if call.form.input == "messages":
        return ChatLogprobs(handle.token_bytes, as_ids)
    return CompletionLogprobs(handle.token_bytes, as_ids)


def echo(handle: RequestHandle) -> str:
    """What is to come before the new text where that is asked for: a completion's prompt, or the
    assistant's message that a chat goes on with. Takes milliseconds for many token ids."""
    request = handle.request
    if request.messages is not None:
        last = request.messages[-1]
        return _text(last) if last.role == "assistant" else ""
    if request.prompt is not None:
        return request.prompt
    return b"".join(map(handle.token_bytes, handle.prompt_token_ids)).decode(errors="replace")


def _text(message: ChatMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(part.text for part in message.content)


def whole(call: Call, head: Head, answered: Sequence[tuple[Running, Generation]]) -> Iterator[str]:
    """Write the answer of all prompts."""
    totals, index = Totals(), 0
    yield f'{head.json(call.form.object)},"choices":['
    for running, done in answered:
        for choice in done.choices:
            yield "," if index else ""
            yield from _choice(call, running, choice, index)
            totals.add(choice.usage, choice.index == 0)
            index += 1
    yield f'],"usage":{totals.json()},"adapters":{adapters_json(answered[0][1].adapters)}'
    if call.options.return_token_ids and call.form.input == "messages":
        yield f',"prompt_token_ids":{dumps(answered[0][0].handle.prompt_token_ids)}'
    yield "}"


def _choice(call: Call, running: Running, choice: Choice, index: int) -> Iterator[str]:
    handle, is_chat = running.handle, call.form.input == "messages"
    if is_chat:
        said = message(choice, running.echo, call.options.include_reasoning)
        yield f'{{"index":{index},"message":{dumps(said)},"logprobs":'
    else:
        yield f'{{"index":{index},"text":{dumps(running.echo + choice.text)},"logprobs":'
    yield from _logprobs(call, handle, choice)
    calls = choice.message is not None and bool(choice.message.tool_calls)
    yield f',"finish_reason":"{reason(choice.finish_reason, calls)}"'
    yield f',"stop_reason":{dumps(choice.stopped_by)}'
    if call.options.return_token_ids:
        yield f',"token_ids":{dumps(choice.token_ids)}'
        if not is_chat:
            yield f',"prompt_token_ids":{dumps(handle.prompt_token_ids)}'
    yield f',"timings":{timings_json(choice.timings)}}}'


def _logprobs(call: Call, handle: RequestHandle, choice: Choice) -> Iterator[str]:
    if handle.request.sampling.logprobs is None:
        yield "null"
        return
    entries = writer(call, handle)
    increments = []
    for at in range(0, len(choice.logprobs), _SLICE):
        increments.append(entries.entries(choice.logprobs[at : at + _SLICE]))
        yield ""  # here the thread may rest
    yield together(entries, increments)
