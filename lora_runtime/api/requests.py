"""What a request says, and what is wrong with it by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import FieldViolation, InvalidRequestError
from .limits import RequestLimits
from .messages import ChatMessage, NamedTool, Object, ToolChoice, wrong_chat
from .structured import StructuredAnswer
from .template_values import wrong_values

MAX_CHOICES = 16
MAX_LOGPROBS = 20
MAX_STOP_LENGTH = 1024
MAX_ID_LENGTH = 256
MAX_ADAPTER_WEIGHT = 100.0
MAX_PRIORITY = 10
MAX_BIAS = 100.0
MIN_REPETITION, MAX_REPETITION = 0.01, 100.0
"""Bounds of the repetition penalty: a hundred times a model's logit is far from what float32 holds.
"""


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen. Defaults give greedy decoding.

    `temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 switch those filters off.
    `repetition_penalty` divides (positive) or multiplies (negative) the logits of every token seen
    in prompt or output (CTRL, arXiv:1909.05858); `presence_penalty` and `frequency_penalty` are
    subtracted from the logits of generated tokens, once or per occurrence. `logprobs` None returns
    none, 0 the chosen token's, k also the k most likely. With a `seed`, choice i draws from seed +
    i. Generation ends before the first of the `stop` strings, in the text as it is given or in the
    text with special tokens shown: that of a token which ends the answer, too, though it is never
    given. `skip_special_tokens` False gives the text of the others. `logit_bias`: pairs of a token
    id and what is added to its logit, before penalties. Nothing ends the answer within the first
    `min_tokens`: what would end it by itself is not chosen there, `ignore_eos` or not, and a stop
    string that is complete there is passed over. `structured`: what the text must be; where that is
    complete and cannot go on, the answer ends, whatever `min_tokens` and `ignore_eos` say.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None
    n: int = 1
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    structured: StructuredAnswer | None = None

    def violations(self) -> list[FieldViolation]:
        """Every field that is out of range, NaN included (a comparison with NaN is false)."""
        form = self.structured.violation() if self.structured is not None else ""
        checks = [
            ("max_new_tokens", self.max_new_tokens >= 1, "must be at least 1"),
            ("temperature", 0.0 <= self.temperature <= 100.0, "must be in [0, 100]"),
            ("top_p", 0.0 < self.top_p <= 1.0, "must be in (0, 1]"),
            ("top_k", self.top_k >= 0, "must be at least 0 (0 is off)"),
            ("min_p", 0.0 <= self.min_p <= 1.0, "must be in [0, 1]"),
            (
                "repetition_penalty",
                # The least one, sent as a float32, is a little less.
                MIN_REPETITION * (1 - 1e-6) <= self.repetition_penalty <= MAX_REPETITION,
                f"must be in [{MIN_REPETITION:g}, {MAX_REPETITION:g}]",
            ),
            ("presence_penalty", -2.0 <= self.presence_penalty <= 2.0, "must be in [-2, 2]"),
            ("frequency_penalty", -2.0 <= self.frequency_penalty <= 2.0, "must be in [-2, 2]"),
            ("seed", self.seed is None or 0 <= self.seed < 2**63, "must be in [0, 2^63)"),
            (
                "stop",
                all(0 < len(s) <= MAX_STOP_LENGTH for s in self.stop),
                f"each string must have 1 to {MAX_STOP_LENGTH} characters",
            ),
            (
                "stop_token_ids",
                all(t >= 0 for t in self.stop_token_ids),
                "ids must not be negative",
            ),
            (
                "logprobs",
                self.logprobs is None or 0 <= self.logprobs <= MAX_LOGPROBS,
                f"must be in [0, {MAX_LOGPROBS}]",
            ),
            ("n", 1 <= self.n <= MAX_CHOICES, f"must be in [1, {MAX_CHOICES}]"),
            (
                "logit_bias",
                all(abs(bias) <= MAX_BIAS for _, bias in self.logit_bias),
                f"each bias must be in [-{MAX_BIAS:g}, {MAX_BIAS:g}]",
            ),
            (
                "logit_bias",
                len({token for token, _ in self.logit_bias}) == len(self.logit_bias),
                "a token is named twice",
            ),
            (
                "min_tokens",
                0 <= self.min_tokens <= max(0, self.max_new_tokens),
                "must be at least 0, and no more than an answer may have",
            ),
            ("structured", not form, form),
        ]
        return [FieldViolation(name, text) for name, ok, text in checks if not ok]


@dataclass(frozen=True)
class WeightedAdapter:
    """One adapter of a composition: rows take `weight` times its update, beside those of the
    others."""

    adapter_id: str
    weight: float = 1.0


@dataclass(frozen=True)
class Request:
    """One generation request. Exactly one of `prompt`, `token_ids` and `messages` is given.

    `adapter_id` "" means the base model; `adapters` names several at once instead, whose weighted
    updates are summed. `priority`: higher goes first, see docs/guide/fairness.md. `timeout_s` is
    seconds from submission. `caller`: who asks, "" where that is not told apart; a caller has a
    share of the queue, and finds the cached prefixes of no other, unless both give the same
    `cache_salt`. `caller_max_waiting`: its sequences that may wait; 0 is half of the engine's
    `max_waiting`. `continue_final_message`: the last of `messages`, the assistant's, is begun and
    the answer goes on with it. `chat_template_kwargs`: JSON values by name, for the chat template
    as `apply_chat_template` of transformers hands them on. `tools` and `documents`, objects or JSON
    texts, are for the template, too; `tool_choice` required, or a tool by name, makes the answer a
    call. With `parse_answer` events and choices have a `message`: content, reasoning and tool calls
    told apart as the tokenizer's response template says, or all of it content where there is none.
    `trace`: the caller's own, such as the context of a trace; its RequestRecord gives it back.
    """

    prompt: str | None = None
    token_ids: tuple[int, ...] | None = None
    messages: tuple[ChatMessage, ...] | None = None
    adapter_id: str = ""
    sampling: SamplingParams = SamplingParams()
    request_id: str = ""
    timeout_s: float | None = None
    adapters: tuple[WeightedAdapter, ...] = ()
    priority: int = 0
    caller: str = ""
    cache_salt: str = ""
    caller_max_waiting: int = 0
    continue_final_message: bool = False
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    tools: tuple[Object, ...] = field(default=(), hash=False)
    documents: tuple[Object, ...] = field(default=(), hash=False)
    tool_choice: ToolChoice = ""
    parallel_tool_calls: bool = True
    parse_answer: bool = False
    trace: object = field(default=None, compare=False, repr=False)

    def validate(self, limits: RequestLimits | None = None) -> None:
        """Raises InvalidRequestError that names every field that is wrong by itself; where some are
        over `limits` (None: the usual ones), these alone."""
        (limits or RequestLimits()).check(self._count)
        violations = self.sampling.violations()
        if len(self.adapter_id) > MAX_ID_LENGTH:
            violations.append(FieldViolation("adapter_id", f"at most {MAX_ID_LENGTH} characters"))
        violations += self._composition_violations()
        violations += self._chat_violations()
        if abs(self.priority) > MAX_PRIORITY:
            violations.append(
                FieldViolation("priority", f"must be in [-{MAX_PRIORITY}, {MAX_PRIORITY}]")
            )
        if self.timeout_s is not None and math.isnan(self.timeout_s):
            violations.append(FieldViolation("timeout_s", "must be a number of seconds"))
        violations += [
            FieldViolation(name, f"at most {MAX_ID_LENGTH} characters")
            for name in ("caller", "cache_salt")
            if len(getattr(self, name)) > MAX_ID_LENGTH
        ]
        if self.caller_max_waiting < 0:
            violations.append(FieldViolation("caller_max_waiting", "must not be negative"))
        given = [n for n in ("prompt", "token_ids", "messages") if getattr(self, n) is not None]
        if len(given) != 1:
            violations.append(
                FieldViolation(
                    "prompt",
                    f"exactly one of prompt, token_ids and messages is needed, got {given or 'none'}",
                )
            )
        elif not getattr(self, given[0]):
            violations.append(FieldViolation(given[0], "must not be empty"))
        if violations:
            raise InvalidRequestError(violations)

    @property
    def uses(self) -> tuple[WeightedAdapter, ...]:
        """The adapters of the request, none for the base."""
        return self.adapters or ((WeightedAdapter(self.adapter_id),) if self.adapter_id else ())

    @property
    def forces_call(self) -> bool:
        """Whether the answer must be a tool call."""
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedTool)

    @property
    def is_constrained(self) -> bool:
        """Whether the answer's text has a form."""
        return self.sampling.structured is not None or self.forces_call

    @property
    def _has_chat(self) -> bool:
        """Whether any field of a conversation is set."""
        return bool(
            self.messages
            or self.continue_final_message
            or self.chat_template_kwargs != {}
            or self.tools
            or self.documents
            or self.tool_choice != ""
        )

    def _count(self, field: str) -> int:
        if field == "structured":
            return 0 if self.sampling.structured is None else self.sampling.structured.size
        own: Any = vars(self).get(field, self)
        return len((getattr(self.sampling, field) if own is self else own) or ())

    def _chat_violations(self) -> list[FieldViolation]:
        if not self._has_chat:
            return []
        last = self.messages[-1].role if self.messages else ""
        wrong = {
            "continue_final_message": "needs messages, the last the assistant's"
            if self.continue_final_message and last != "assistant"
            else "",
            "chat_template_kwargs": wrong_values(self.chat_template_kwargs, bool(self.messages)),
        }
        if self.forces_call and self.sampling.structured is not None:
            wrong["structured"] = "tool_choice has a form for the answer as well: give one of both"
        wrong |= wrong_chat(
            self.messages, self.tools, self.documents, self.tool_choice, self.chat_template_kwargs
        )
        return [FieldViolation(name, text) for name, text in wrong.items() if text]

    def _composition_violations(self) -> list[FieldViolation]:
        if not self.adapters:
            return []
        names = [a.adapter_id for a in self.adapters]
        checks = [
            (not (self.adapter_id and names), "give one adapter or several, not both"),
            (len(set(names)) == len(names), "an adapter is named twice"),
            (
                all(0 < len(n) <= MAX_ID_LENGTH for n in names),
                f"ids must have 1 to {MAX_ID_LENGTH} characters",
            ),
            (
                all(0 < abs(a.weight) <= MAX_ADAPTER_WEIGHT for a in self.adapters),
                f"weights must be in [-{MAX_ADAPTER_WEIGHT:g}, {MAX_ADAPTER_WEIGHT:g}] and not 0",
            ),
        ]
        return [FieldViolation("adapters", text) for ok, text in checks if not ok]
