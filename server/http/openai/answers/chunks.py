"""Increments of an answer as server-sent events.

An event is one JSON object, put together of texts that are ready: it is made for each token.
"""

from __future__ import annotations

from collections.abc import Sequence

from lora_runtime import RequestHandle, TokenEvent

from ..requests.body import Call
from .logprobs import LogprobWriter, together
from .said import delta, has_calls, reason
from .whole import (
    Head,
    Running,
    Totals,
    adapters_json,
    dumps,
    timings_json,
    usage_json,
    writer,
)

DONE = b"data: [DONE]\n\n"


class Chunks:
    """Writer of the events of one prompt's choices."""

    def __init__(
        self, call: Call, head: Head, running: Running, totals: Totals, first: int = 0
    ) -> None:
        """Count in `totals`; `first` is the index of the prompt's first choice."""
        self._call, self._totals, self._first = call, totals, first
        self._handle, self._echo = running.handle, running.echo
        self._is_chat = call.form.input == "messages"
        self._head = head.json(call.form.chunk_object)
        self._choices: dict[int, _Choice] = {}

    def write(self, events: Sequence[TokenEvent]) -> bytes:
        """Write events that came together."""
        return "".join(map(self._event, events)).encode()

    def _event(self, event: TokenEvent) -> str:
        choice, before, text, extra = self._choices.get(event.index), "", event.text, ""
        if choice is None:
            choice = self._choices[event.index] = _Choice(self._call, self._handle)
            before, text, extra = self._opening(event)
        ids = self._token_ids(event, not choice.tokens)
        choice.tokens += len(event.token_ids)
        index = self._first + event.index
        if self._is_chat:
            choice.has_calls |= has_calls(event.message)
            said = delta(event, self._call.options.include_reasoning)
            body = f'{{"index":{index},"delta":{dumps(said)}'
        else:
            body = f'{{"index":{index},"text":{dumps(text)}'
        ended = self._end(event, choice.has_calls)
        end = f',"logprobs":{choice.logprobs(event)},"finish_reason":{ended}{ids}'
        return before + self._chunk(body + end, choice.tokens, extra)

    def _opening(self, event: TokenEvent) -> tuple[str, str, str]:
        """Begin a choice: a chat with a chunk of its own that has the role. Gives what comes before
        the first event, its text, and what is beside its choice."""
        extra = f',"adapters":{adapters_json(self._handle.adapters)}' if event.index == 0 else ""
        if not self._is_chat:
            return "", self._echo + event.text, extra
        delta = f'{{"role":"assistant","content":{dumps(self._echo)}}}'
        choice = f'{{"index":{self._first + event.index},"delta":{delta}'
        if self._call.options.return_token_ids:
            extra += f',"prompt_token_ids":{dumps(self._handle.prompt_token_ids)}'
        return (
            self._chunk(f'{choice},"logprobs":null,"finish_reason":null', 0, extra),
            event.text,
            "",
        )

    def _end(self, event: TokenEvent, has_calls: bool) -> str:
        if event.finish_reason is None or event.usage is None or event.timings is None:
            return "null"
        self._totals.add(event.usage, event.index == 0)
        told = reason(event.finish_reason, has_calls)
        stopped_by = f'"stop_reason":{dumps(event.stopped_by)}'
        return f'"{told}",{stopped_by},"timings":{timings_json(event.timings)}'

    def _token_ids(self, event: TokenEvent, first: bool) -> str:
        if not self._call.options.return_token_ids:
            return ""
        found = f',"token_ids":{dumps(event.token_ids)}'
        if first and not self._is_chat:
            found += f',"prompt_token_ids":{dumps(self._handle.prompt_token_ids)}'
        return found

    def _chunk(self, choice: str, tokens: int, extra: str = "") -> str:
        return f'data: {self._head},"choices":[{choice}}}]{extra}{self._usage(tokens)}}}\n\n'

    def _usage(self, tokens: int) -> str:
        """Tell what a choice has used up to here, or as OpenAI does that it comes at the end."""
        if not self._call.usage.include_usage:
            return ""
        if not self._call.usage.continuous_usage_stats:
            return ',"usage":null'
        return f',"usage":{usage_json(len(self._handle.prompt_token_ids), tokens)}'


class _Choice:
    """One choice as far as it has come."""

    def __init__(self, call: Call, handle: RequestHandle) -> None:
        self.tokens, self.has_calls = 0, False
        self._writer: LogprobWriter | None = None
        if handle.request.sampling.logprobs is not None:
            self._writer = writer(call, handle)

    def logprobs(self, event: TokenEvent) -> str:
        if self._writer is None:
            return "null"
        return together(self._writer, [self._writer.entries(event.logprobs)])


def usage_chunk(call: Call, head: Head, totals: Totals) -> bytes:
    """Write the last event, without choices."""
    start = head.json(call.form.chunk_object)
    return f'data: {start},"choices":[],"usage":{totals.json()}}}\n\n'.encode()
