"""What may be sent: each field of the table becomes what it says, or is refused by its name."""

from __future__ import annotations

from typing import Any

import pytest

from lora_runtime import (
    InvalidRequestError,
    Request,
    RequestLimits,
    SamplingParams,
    WeightedAdapter,
)
from server.http.openai.requests.body import Call, Options, read
from server.http.openai.requests.fields import CHAT, COMPLETION, Form
from server.http.openai.requests.inputs import MAX_PROMPTS, StreamOptions
from server.http.openai.requests.kinds import Field, Refused

LIMITS = RequestLimits(token_ids=99)
CONTEXT = 100
FORMS = {"completion": COMPLETION, "chat": CHAT}
INPUTS: dict[str, dict[str, Any]] = {
    "completion": {"prompt": "hi"},
    "chat": {"messages": [{"role": "user", "content": "hi"}]},
}


def call(name: str, **fields: Any) -> Call:
    return read(FORMS[name], {**INPUTS[name], **fields}, LIMITS, CONTEXT)


def wrong(name: str, **fields: Any) -> dict[str, str]:
    """By the names that the caller knows."""
    try:
        made = call(name, **fields)
    except InvalidRequestError as error:
        return {v.field: v.description for v in error.violations}
    for request in made.requests:
        try:
            request.validate(LIMITS)
        except InvalidRequestError as error:
            return {made.names.get(v.field, v.field): v.description for v in error.violations}
    return {}


@pytest.mark.parametrize("name", FORMS)
def test_every_field_goes_somewhere(name: str) -> None:
    owners: dict[str, Any] = {"sampling": SamplingParams, "request": Request, "option": Options}
    form: Form = FORMS[name]
    assert len(form.by_name) == len(form.fields)
    for rule in form.fields:
        if isinstance(rule, Field):
            place, _, field = rule.to.partition(".")
            assert field in owners[place].__dataclass_fields__, rule.name


@pytest.mark.parametrize("name", FORMS)
def test_defaults_are_those_that_openai_states(name: str) -> None:
    (request,) = call(name).requests
    rest = {"completion": 16, "chat": CONTEXT}[name]
    assert request.sampling == SamplingParams(max_new_tokens=rest, temperature=1.0)
    assert call(name).max_tokens_given == (name == "completion")
    assert call(name, temperature=None, n=None, stop=None, stream=None, seed=None) == call(name)


SAMPLING: dict[str, tuple[Any, dict[str, Any]]] = {
    "temperature": (0, {"temperature": 0.0}),
    "top_p": (0.5, {"top_p": 0.5}),
    "top_k": (5, {"top_k": 5}),
    "min_p": (0.25, {"min_p": 0.25}),
    "repetition_penalty": (2, {"repetition_penalty": 2.0}),
    "presence_penalty": (-1.5, {"presence_penalty": -1.5}),
    "frequency_penalty": (1, {"frequency_penalty": 1.0}),
    "seed": (7, {"seed": 7}),
    "stop": (["a", "b"], {"stop": ("a", "b")}),
    "stop_token_ids": ([1, 2], {"stop_token_ids": (1, 2)}),
    "ignore_eos": (True, {"ignore_eos": True}),
    "skip_special_tokens": (False, {"skip_special_tokens": False}),
    "n": (3.0, {"n": 3}),
    "max_tokens": (4, {"max_new_tokens": 4}),
    "min_tokens": (2, {"min_tokens": 2}),
    "logit_bias": ({"5": -100, "17": 1.5}, {"logit_bias": ((5, -100.0), (17, 1.5))}),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("field", SAMPLING)
def test_sampling_is_what_was_sent(name: str, field: str) -> None:
    value, expected = SAMPLING[field]
    (request,) = call(name, **{field: value}).requests
    for key, one in expected.items():
        assert getattr(request.sampling, key) == one
        assert type(getattr(request.sampling, key)) is type(one)


def test_what_clients_count_otherwise_is_turned_round() -> None:
    assert call("chat", top_k=-1).requests[0].sampling.top_k == 0
    assert call("chat", seed=-1).requests[0].sampling.seed is None
    assert 0 <= (call("chat", seed=-5).requests[0].sampling.seed or -1) < 2**63
    assert call("chat", priority=-3).requests[0].priority == 3  # vLLM: the lowest first
    assert call("chat", stop="x").requests[0].sampling.stop == ("x",)
    assert call("chat", top_p=0).requests[0].sampling.top_p == 1e-9  # the engine takes no 0
    newer = {"max_tokens": 5, "max_completion_tokens": 6}
    for name in FORMS:
        for fields in (newer, dict(reversed(newer.items()))):
            assert call(name, **fields).requests[0].sampling.max_new_tokens == 6


def test_logprobs_of_both_forms() -> None:
    assert call("completion", logprobs=3).requests[0].sampling.logprobs == 3
    assert call("chat", logprobs=True).requests[0].sampling.logprobs == 0
    assert call("chat", logprobs=True, top_logprobs=3).requests[0].sampling.logprobs == 3
    assert call("chat", logprobs=False).requests[0].sampling.logprobs is None
    assert call("chat", top_logprobs=0).requests[0].sampling.logprobs is None
    assert wrong("chat", top_logprobs=2) == {"top_logprobs": "needs logprobs to be true"}
    assert list(wrong("chat", logprobs=True, top_logprobs=99)) == ["top_logprobs"]
    assert list(wrong("completion", logprobs=99)) == ["logprobs"]


PROMPTS = {
    "text": ("hi", [{"prompt": "hi"}]),
    "ids": ([1, 2], [{"token_ids": (1, 2)}]),
    "texts": (["a", "b"], [{"prompt": "a"}, {"prompt": "b"}]),
    "lists of ids": ([[1], [2, 3]], [{"token_ids": (1,)}, {"token_ids": (2, 3)}]),
    "of both": (["a", [1.0]], [{"prompt": "a"}, {"token_ids": (1,)}]),
}


@pytest.mark.parametrize("kind", PROMPTS)
def test_prompts(kind: str) -> None:
    given, expected = PROMPTS[kind]
    requests = call("completion", prompt=given).requests
    assert [
        {n: getattr(r, n) for n in ("prompt", "token_ids") if getattr(r, n) is not None}
        for r in requests
    ] == expected


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ([], "must not be empty"),
        ("", "must not be empty"),
        ([[]], "must not be empty"),
        (None, "is needed"),
        (5, "must be a list of prompts"),
        ({}, "must be a list of prompts"),
        ([None], "must be an integer"),
        (["a"] * (MAX_PROMPTS + 1), f"at most {MAX_PROMPTS} prompts"),
        ([1] * 100, "at most 99 tokens"),
        ([[1], [2] * 100], "at most 99 tokens"),
        ([True, False], "must be an integer"),
    ],
)
def test_prompts_that_are_none(prompt: Any, text: str) -> None:
    found = wrong("completion", prompt=prompt)
    assert list(found) == ["prompt"]
    assert text in found["prompt"]


def test_adapters_and_options() -> None:
    made = call(
        "chat",
        model="x",
        adapters=[{"adapter_id": "a"}, {"adapter_id": "b", "weight": -1}],
        stream=True,
        stream_options={"include_usage": True, "include_obfuscation": False},
        request_id="r",
        cache_salt="s",
    )
    (request,) = made.requests
    assert request.adapters == (WeightedAdapter("a"), WeightedAdapter("b", -1.0))
    assert request.cache_salt == "s"
    assert made.usage == StreamOptions(include_usage=True)
    each = {"continuous_usage_stats": True}
    for options in (each, {**each, "include_usage": None}):
        assert call("chat", stream=True, stream_options=options).usage == StreamOptions(True, True)
    off = {**each, "include_usage": False}
    assert call("chat", stream=True, stream_options=off).usage == StreamOptions(False, True)
    assert (made.options.model, made.options.request_id, made.options.stream) == ("x", "r", True)
    assert (
        "neither adapter_id"
        in wrong("chat", adapters=[{"adapter_id": "a", "wieght": 1}])["adapters"]
    )
    assert wrong("chat", adapters=[{"adapter_id": "a"}] * 9) == {"adapters": "at most 8 adapters"}


def test_an_effort_is_handed_to_the_template() -> None:
    (request,) = call("chat", reasoning_effort="low").requests
    assert request.chat_template_kwargs == {"reasoning_effort": "low", "enable_thinking": True}
    (request,) = call(
        "chat", reasoning_effort="none", chat_template_kwargs={"enable_thinking": True}
    ).requests
    assert request.chat_template_kwargs == {"reasoning_effort": "none", "enable_thinking": True}
    assert list(wrong("chat", reasoning_effort="huge")) == ["reasoning_effort"]


def test_a_turn_that_goes_on() -> None:
    begun = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (request,) = call(
        "chat", messages=begun, continue_final_message=True, add_generation_prompt=False
    ).requests
    assert request.continue_final_message
    for fields in (
        {"continue_final_message": True, "add_generation_prompt": True},
        {"add_generation_prompt": False},
    ):
        assert list(wrong("chat", messages=begun, **fields)) == ["add_generation_prompt"]


@pytest.mark.parametrize("name", FORMS)
def test_what_is_not_served_is_refused_by_name(name: str) -> None:
    for rule in FORMS[name].fields:
        if not isinstance(rule, Refused):
            continue
        found = wrong(name, **{rule.name: {"some": "thing"}})
        assert list(found) == [rule.name]
        assert "is not supported" in found[rule.name]
        for neutral in (None, *rule.neutral):
            assert not wrong(name, **{rule.name: neutral})


def test_true_is_not_one() -> None:
    assert wrong("chat", length_penalty=True)
    assert not wrong("chat", length_penalty=1)


@pytest.mark.parametrize("name", FORMS)
def test_a_length_below_one_is_all_that_is_wrong(name: str) -> None:
    assert list(wrong(name, max_tokens=-1)) == ["max_tokens"]


def test_the_best_of_as_many_are_all() -> None:
    for best_of, n in ((1, None), (3, 3), (None, 3)):
        assert not wrong("completion", best_of=best_of, n=n)
    for best_of, n in ((3, None), (1, 3), (True, 1)):
        assert list(wrong("completion", best_of=best_of, n=n)) == ["best_of"]


@pytest.mark.parametrize("field", ["adapter_id", "adapter_source", "lora", "lora_path"])
@pytest.mark.parametrize("name", FORMS)
def test_an_adapter_that_is_named_otherwise_is_not_passed_over(name: str, field: str) -> None:
    assert "model names an adapter" in wrong(name, **{field: "pirate"})[field]


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("temperature", "1", "must be a number"),
        ("temperature", True, "must be a number"),
        ("temperature", 10**400, "finite"),
        ("temperature", -1, "must be in [0, 100]"),
        ("max_tokens", 1.5, "must be an integer"),
        ("max_tokens", 1e300, "must be an integer"),
        ("max_tokens", 0, "must be at least 1"),
        ("n", 17, "must be in [1, 16]"),
        ("stop", [1], "must be a string"),
        ("stop", ["a"] * 17, "at most 16 strings"),
        ("stop", "", "1 to 1024"),
        ("stop_token_ids", [1] * 257, "at most 256 ids"),
        ("stop_token_ids", "1", "must be a list of integers"),
        ("stream", 1, "must be true or false"),
        ("stream_options", {"include_usage": 1}, "must be true or false"),
        ("priority", 11, "must be in [-10, 10]"),
        ("seed", 2**63, "must be in [0, 2^63)"),
        ("model", 5, "must be a string"),
        ("logit_bias", {"x": 1}, "'x' is no token id"),
        ("logit_bias", {"\u0663": 1}, "is no token id"),
        ("logit_bias", {"1": "x"}, "must be a number"),
        ("logit_bias", {"1": 101}, "must be in [-100, 100]"),
        ("logit_bias", {"1": 1, "01": 1}, "a token is named twice"),
        ("logit_bias", {str(i): 1 for i in range(1025)}, "at most 1024"),
        ("min_tokens", 999, "no more than an answer may have"),
        ("cache_salt", "x" * 257, "at most 256"),
    ],
)
@pytest.mark.parametrize("name", FORMS)
def test_values_that_are_wrong_are_named(name: str, field: str, value: Any, text: str) -> None:
    fields = {"stream": True} if field == "stream_options" else {}
    found = wrong(name, **{**fields, field: value})
    assert list(found) == [field]
    assert text in found[field]


def test_everything_wrong_is_named_at_once() -> None:
    assert list(wrong("chat", temperature="x", stop=5, suffix="?")) == ["temperature", "stop"]
    assert list(wrong("completion", stream_options={}, suffix="?")) == ["suffix", "stream_options"]
    assert list(wrong("completion", echo=True, logprobs=1)) == ["echo"]


def test_unknown_fields_are_told() -> None:
    assert call("chat", nonsense=1, more={"x": 1}).unknown == ("nonsense", "more")
