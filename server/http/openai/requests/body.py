"""A body as requests of the engine, and what its answer is to look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lora_runtime import (
    FieldViolation,
    InvalidRequestError,
    Request,
    RequestLimits,
    SamplingParams,
)

from .fields import Form
from .inputs import Prompt, StreamOptions
from .kinds import Field, Refused, Wrong

_OLDER, _NEWER = "max_tokens", "max_completion_tokens"
"""Two names of one field, of which the newer counts."""


@dataclass(frozen=True)
class Options:
    """What a body says beside the engine's request."""

    model: str = ""
    prompts: tuple[Prompt, ...] = ()
    request_id: str = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    echo: bool = False
    best_of: int | None = None
    with_logprobs: bool | None = None
    """A chat's own switch."""
    add_generation_prompt: bool | None = None
    reasoning_effort: str | None = None
    include_reasoning: bool = True
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False


@dataclass(frozen=True)
class Call:
    """A call as it was read: the engine's requests, one for each prompt, and what to make of their
    answers."""

    form: Form
    options: Options
    requests: tuple[Request, ...]
    max_tokens_given: bool
    names: Mapping[str, str] = field(default_factory=dict)
    """Names in the body of the engine's fields, where they differ."""
    unknown: tuple[str, ...] = ()
    """Fields that nothing is known of."""

    @property
    def usage(self) -> StreamOptions:
        return self.options.stream_options or StreamOptions()


def read(form: Form, body: Mapping[str, Any], limits: RequestLimits, max_context: int) -> Call:
    """Read a body. Raises InvalidRequestError that names every field that is wrong by itself."""
    found = _Found(form, limits)
    for name, value in body.items():
        found.take(name, value)
    found.check_together()
    if found.violations:
        raise InvalidRequestError(found.violations)
    return found.call(max_context)


class _Found:
    """Values of a body by where they go, and what is wrong with it."""

    def __init__(self, form: Form, limits: RequestLimits) -> None:
        self.form, self._limits = form, limits
        self.violations: list[FieldViolation] = []
        self._values: dict[str, dict[str, Any]] = {
            "sampling": dict(form.sampling), "request": {}, "option": {}
        }  # fmt: skip
        self._names: dict[str, str] = {}
        self._unknown: list[str] = []

    def take(self, name: str, value: Any) -> None:
        """Read one field."""
        rule = self.form.by_name.get(name)
        if rule is None:
            self._unknown.append(name)
            return
        try:
            if isinstance(rule, Refused):
                rule.check(value)
            elif isinstance(rule, Field) and value is not None:
                self._read(rule, value)
        except Wrong as wrong:
            self.violations.append(FieldViolation(name, str(wrong)))

    def _read(self, rule: Field, value: Any) -> None:
        rule.kind.check_count(value, self._limits)
        read = rule.kind.read(value)
        if rule.change is not None:
            read = rule.change(read)
        place, _, name = rule.to.partition(".")
        if read is None or (other := self._names.get(name)) == _NEWER:
            return
        if other not in (None, _OLDER):
            raise Wrong(f"{other} says it already")
        self._values[place][name] = read
        self._names[name] = rule.name

    def check_together(self) -> None:
        """Check what fields say together; the engine checks the rest."""
        option, request = self._values["option"], self._values["request"]
        inputs = option.get("prompts"), request.get("messages")
        n = self._values["sampling"].get("n", 1)
        checks = [
            (self.form.input, inputs == (None, None) and not self.violations, "is needed"),
            (
                "stream_options",
                "stream_options" in option and not option.get("stream"),
                "needs stream to be true",
            ),
            (
                "top_logprobs",
                bool(self._values["sampling"].get("logprobs"))
                and self._names["logprobs"] == "top_logprobs"
                and not option.get("with_logprobs"),
                "needs logprobs to be true",
            ),
            (
                "echo",
                bool(option.get("echo"))
                and self.form.input == "prompt"
                and "logprobs" in self._names,
                "is not supported with logprobs: the prompt's tokens have none",
            ),
            (
                "best_of",
                option.get("best_of", n) != n,
                "must be n: of more, the best are not looked for",
            ),
            (
                "add_generation_prompt",
                option.get("add_generation_prompt") is bool(request.get("continue_final_message")),
                "must be false with continue_final_message, and else true",
            ),
        ]
        self.violations += [FieldViolation(name, text) for name, wrong, text in checks if wrong]

    def call(self, max_context: int) -> Call:
        """Make the call of what was read."""
        option, request = Options(**self._values["option"]), dict(self._values["request"])
        sampling = self._sampling(option, max_context)
        if option.reasoning_effort is not None:
            request["chat_template_kwargs"] = _effort(
                option.reasoning_effort, request.get("chat_template_kwargs", {})
            )
        whole = Request(sampling=sampling, parse_answer=self.form.input == "messages", **request)
        inputs: list[dict[str, Any]] = [{}]
        if self.form.input == "prompt":
            inputs = [
                {"prompt": one} if isinstance(one, str) else {"token_ids": one}
                for one in option.prompts
            ]
        return Call(
            self.form,
            option,
            tuple(replace(whole, **one) for one in inputs),
            "max_new_tokens" in self._names or self.form.max_tokens is not None,
            self._all_names(),
            tuple(self._unknown),
        )

    def _sampling(self, option: Options, max_context: int) -> SamplingParams:
        values = dict(self._values["sampling"])
        values.setdefault("max_new_tokens", self.form.max_tokens or max_context)
        if option.with_logprobs is not None:
            values["logprobs"] = values.get("logprobs", 0) if option.with_logprobs else None
        elif self._names.get("logprobs") == "top_logprobs":
            values.pop("logprobs")  # a 0 without the switch
        return SamplingParams(**values)

    def _all_names(self) -> dict[str, str]:
        """Names for every field of the engine that an error may be about."""
        names = {
            rule.to.partition(".")[2]: rule.name
            for rule in reversed(self.form.fields)
            if isinstance(rule, Field)
        }
        inputs = dict.fromkeys(("prompt", "token_ids", "messages"), self.form.input)
        return {**names, **self._names, **inputs, "adapter_id": "model"}


def _effort(effort: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Values for the template, as vLLM hands an effort on: some templates have but a switch."""
    return {"reasoning_effort": effort, "enable_thinking": effort != "none", **given}
