"""Choice of what reads a request's answers as messages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..api.json_values import plain
from ..api.messages import NamedTool, function_of, read_objects
from ..api.requests import Request
from ..api.structured import StructuredAnswer, StructuredKind
from ..config import EngineConfig
from ..errors import InvalidRequestError
from ..foreign.answer_workers import AnswerWorkers
from ..foreign.process import WorkLimits
from ..requests.messages.forced_calls import (
    CallListParser,
    NamedCallParser,
    arguments_schema,
    calls_schema,
)
from ..requests.messages.parsing import MessageParser, PlainParser
from ..requests.messages.template_parser import Reading, TemplateParser
from ..requests.prompts.tokenization import template_values
from ..requests.text.shown_text import ShownText

_JSON = (StructuredKind.JSON_OBJECT, StructuredKind.JSON_SCHEMA)
_MEMORY_BYTES = 256 << 20
"""Memory of one request's reading, at most."""


def notes_on_messages(tokenizer: Any) -> tuple[str, ...]:
    """Give a note on a base whose calls nothing tells apart from text."""
    template = getattr(tokenizer, "chat_template", None)
    if "tools" not in str(template or "") or getattr(tokenizer, "response_template", None):
        return ()
    return (
        "the base's chat template takes tools, and its tokenizer has no response template: calls in "
        "its answers stay text, but for those that a tool_choice makes (see response_template)",
    )


def forced_form(request: Request) -> StructuredAnswer:
    """Form of an answer that its tool choice makes a call."""
    tools, choice = read_objects(request.tools), request.tool_choice
    if isinstance(choice, NamedTool):
        named = next(tool for tool in tools if function_of(tool)["name"] == choice.name)
        schema = arguments_schema(named)
    else:
        schema = calls_schema(tools, request.parallel_tool_calls)
    text = json.dumps(plain(schema), ensure_ascii=False)
    return StructuredAnswer(StructuredKind.JSON_SCHEMA, text)


def about_tools(error: BaseException) -> BaseException:
    """The error of a form that tools have made: they are what its caller gave."""
    if not isinstance(error, InvalidRequestError):
        return error
    of_tools = [replace(one, field="tools") for one in error.violations]
    return InvalidRequestError(of_tools)


class MessageParsers:
    """Maker of requests' parsers; they share workers, which end with it."""

    def __init__(self, config: EngineConfig) -> None:
        memory = min(_MEMORY_BYTES, config.adapter_worker_bytes)
        self._workers = AnswerWorkers(WorkLimits(config.chat_template_timeout_s, memory))

    def of(
        self,
        request: Request,
        tokenizer: Any,
        prompt: Sequence[int],
        text: str | None,
        ends: frozenset[int],
    ) -> MessageParser | None:
        """Parser for a request, None if it wants none. `text`: of its prompt, if that is known;
        `ends`: tokens that end an answer."""
        params = request.sampling
        if not request.parse_answer:
            return None
        if isinstance(request.tool_choice, NamedTool):
            return NamedCallParser(request.tool_choice.name, params.n)
        if request.tool_choice == "required":
            return CallListParser(params.n)
        template = getattr(tokenizer, "response_template", None)
        form = params.structured
        # JSON is an answer's content, also where the prompt has begun to reason.
        if not isinstance(template, dict) or (form is not None and form.kind in _JSON):
            return PlainParser()
        if text is None:
            text = tokenizer.decode(list(prompt), clean_up_tokenization_spaces=False)
        tools = template_values(request).get("tools") or []
        reading = Reading(
            hashlib.sha256(json.dumps(template).encode()).hexdigest(),
            template,
            _from_anchor(template, text),
            tools,
            bool(tools) and request.tool_choice != "none",
            request.parallel_tool_calls,
        )
        texts = [ShownText(tokenizer, prompt, params, ends) for _ in range(params.n)]
        return TemplateParser(self._workers, reading, texts)

    def close(self) -> None:
        self._workers.close()


def _from_anchor(template: dict[str, Any], prompt: str) -> str:
    """End of a prompt that a template looks at, where that is known without a pattern."""
    anchors = template.get("start_anchor")
    anchors = [anchors] if isinstance(anchors, str) else anchors
    if not isinstance(anchors, list) or not all(isinstance(anchor, str) for anchor in anchors):
        return prompt
    return prompt[max([0, *(prompt.rfind(anchor) for anchor in anchors)]) :]
