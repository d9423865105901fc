"""Tokens of a prompt without an answer: those that a request of the same would have."""

from __future__ import annotations

import pytest

from lora_runtime import (
    ChatMessage,
    Engine,
    InvalidRequestError,
    Request,
    SamplingParams,
    UnknownAdapterError,
)

from ....support.engines import is_idle

ONE = SamplingParams(max_new_tokens=1)


@pytest.mark.parametrize(
    "request_",
    [
        Request(prompt="hi Grüße", adapter_id="a1", sampling=ONE),
        Request(messages=(ChatMessage("user", "hi"),), sampling=ONE),
        Request(token_ids=(5, 6, 7), adapter_id="a2", sampling=ONE),
    ],
    ids=["prompt", "messages", "ids"],
)
def test_they_are_those_of_the_request(engine: Engine, request_: Request) -> None:
    found = engine.tokenize(request_)
    handle = engine.submit(request_)
    handle.result()
    assert found.token_ids == handle.prompt_token_ids
    assert len(found.names()) == len(found.token_ids)
    if request_.prompt:
        assert found.text() == request_.prompt
    assert is_idle(engine.stats())


def test_what_is_no_request_has_none(engine: Engine) -> None:
    with pytest.raises(UnknownAdapterError):
        engine.tokenize(Request(prompt="hi", adapter_id="gone"))
    with pytest.raises(InvalidRequestError, match="outside the vocabulary"):
        engine.tokenize(Request(token_ids=(9999,)))
    with pytest.raises(InvalidRequestError, match="the context holds"):
        engine.tokenize(Request(prompt="x" * 600))
    assert is_idle(engine.stats())
