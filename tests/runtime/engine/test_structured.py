"""Answers that are held to a form, beside rows that are not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llguidance import LLMatcher, LLTokenizer
from transformers import AutoModelForCausalLM

from lora_runtime import (
    Choice,
    Engine,
    EngineConfig,
    FinishReason,
    InvalidRequestError,
    Request,
    RequestHandle,
    SamplingParams,
    StructuredAnswer,
)
from lora_runtime.grammars.source import grammar_of
from lora_runtime.kernels.token_masks import mask_tokens_reference

from ...support.adapters import save_adapter
from ...support.bases import opened_once
from ...support.models import EOS, VOCAB, make_tokenizer

PROMPT = (5, 6, 7, 8, 9)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "counts": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
    },
    "required": ["name", "counts"],
    "additionalProperties": False,
}
FORM = StructuredAnswer("json_schema", json.dumps(SCHEMA))
DIGITS = StructuredAnswer("regex", "[0-9]{3}-[0-9]{4}")
ROWS = [("", 0.0), ("a1", 0.0), ("a2", 1.0), ("a1", 0.8), ("", 1.2), ("a3", 0.0)]


@pytest.fixture(scope="module")
def engine(tiny_base: Path, tiny_adapters: dict[str, Path]) -> Iterator[Engine]:
    with opened(tiny_base, tiny_adapters) as engine:
        yield engine


@contextmanager
def opened(tiny_base: Path, tiny_adapters: dict[str, Path]) -> Iterator[Engine]:
    config = EngineConfig(dtype="float32", kv_cache_bytes=8 << 20, max_batch_tokens=128)
    with opened_once(), Engine(tiny_base, config) as engine:
        for name in ("a1", "a2", "a3"):
            engine.load_adapter(tiny_adapters[name], name)
        engine.generate(request(FORM))  # what is compiled once is there
        yield engine


def request(
    form: StructuredAnswer | None, adapter_id: str = "", request_id: str = "", **params: Any
) -> Request:
    sampling = SamplingParams(**{"max_new_tokens": 60, "seed": 7, "structured": form} | params)
    return Request(
        token_ids=PROMPT, adapter_id=adapter_id, request_id=request_id, sampling=sampling
    )


def free_rows(engine: Engine) -> list[RequestHandle]:
    return [
        engine.submit(request(None, name, temperature=t, logprobs=2, max_new_tokens=40))
        for name, t in ROWS
    ]


def outcomes(handles: Sequence[RequestHandle]) -> list[tuple[Any, ...]]:
    choices = [handle.result().choices[0] for handle in handles]
    return [(c.token_ids, c.logprobs, c.text, c.finish_reason) for c in choices]


def answer(engine: Engine, form: StructuredAnswer, **params: Any) -> Choice:
    return engine.generate(request(form, **params)).choices[0]


def test_free_rows_are_what_they_are_without_held_ones(engine: Engine) -> None:
    alone = outcomes(free_rows(engine))
    held = [engine.submit(request(FORM, name, temperature=t)) for name, t in ROWS]
    beside = free_rows(engine)
    held += [engine.submit(request(DIGITS, name, temperature=t)) for name, t in ROWS]
    assert outcomes(beside) == alone
    for handle in held:
        handle.result()


@pytest.mark.parametrize("form", [FORM, DIGITS], ids=["schema", "regex"])
@pytest.mark.parametrize("adapter_id", ["", "a2"])
def test_a_held_row_is_what_it_is_alone(
    engine: Engine, form: StructuredAnswer, adapter_id: str
) -> None:
    ask = request(form, adapter_id, temperature=0.9)
    (alone,) = outcomes([engine.submit(ask)])
    others = free_rows(engine)
    (beside,) = outcomes([engine.submit(ask)])
    assert beside == alone
    for handle in others:
        handle.result()


def reference(base: Path, form: StructuredAnswer, count: int) -> tuple[list[int], list[float]]:
    """Greedy tokens by transformers, each from logits that a matcher of its own masks; and their
    log probabilities before that."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    table = LLTokenizer(make_tokenizer().backend_tokenizer.to_str(), eos_token=[EOS])
    matcher = LLMatcher(table, grammar_of(form))
    tokens, logprobs = list(PROMPT), list[float]()
    while len(logprobs) < count:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([tokens])).logits[0, -1]
        mask = np.frombuffer(matcher.compute_bitmask(), np.uint32)
        tokens.append(int(mask_tokens_reference(logits, mask).argmax()))
        logprobs.append(float(logits.log_softmax(-1)[tokens[-1]]))
        if tokens[-1] == EOS:
            break
        assert matcher.consume_token(tokens[-1])
    return tokens[len(PROMPT) :], logprobs


@pytest.mark.parametrize("form", [FORM, DIGITS], ids=["schema", "regex"])
def test_a_greedy_row_is_the_reference_s(
    engine: Engine, tiny_base: Path, form: StructuredAnswer
) -> None:
    choice = answer(engine, form, logprobs=0)
    tokens, logprobs = reference(tiny_base, form, 60)
    assert list(choice.token_ids) == tokens
    assert [p.logprob for p in choice.logprobs] == pytest.approx(logprobs, abs=1e-3)


def test_each_kind(engine: Engine) -> None:
    assert answer(engine, StructuredAnswer("choice", choices=("yes", "nö 😀"))).text in (
        "yes",
        "nö 😀",
    )
    lark = StructuredAnswer("lark", 'start: "<" inner ">"\ninner: /[a-c]{2}/ | start')
    text = answer(engine, lark, max_new_tokens=400, temperature=1.0).text
    assert text.strip("<>") in {a + b for a in "abc" for b in "abc"}
    assert answer(engine, StructuredAnswer("json_object")).text.startswith("{")


def test_choices_of_one_request(engine: Engine) -> None:
    ask = request(DIGITS, "a1", temperature=1.5, n=4)
    texts = [c.text for c in engine.generate(ask).choices]
    assert len(set(texts)) > 1
    for index, text in enumerate(texts):
        assert answer(engine, DIGITS, adapter_id="a1", temperature=1.5, seed=7 + index).text == text


def test_the_end(engine: Engine) -> None:
    ended = answer(engine, DIGITS)
    assert ended.finish_reason is FinishReason.EOS
    assert ended.token_ids[-1] == EOS
    assert len(ended.text) == 8
    # Neither makes it go on where it cannot.
    for params in ({"ignore_eos": True}, {"min_tokens": 30}, {"ignore_eos": True, "min_tokens": 9}):
        assert answer(engine, DIGITS, **params).token_ids == ended.token_ids
    cut = answer(engine, DIGITS, max_new_tokens=5)
    assert cut.finish_reason is FinishReason.LENGTH
    assert cut.text == ended.text[:5]
    assert answer(engine, DIGITS, stop=("-",)).text == ended.text[:3]


def test_an_end_that_may_come_or_not(engine: Engine) -> None:
    open_end = StructuredAnswer("regex", "[0-9]{2,50}")
    bias = ((EOS, 100.0),)
    assert len(answer(engine, open_end, logit_bias=bias).text) == 2
    assert len(answer(engine, open_end, logit_bias=bias, min_tokens=5).text) == 5
    whole = answer(engine, open_end, logit_bias=bias, ignore_eos=True)
    assert len(whole.text) == 50
    assert whole.finish_reason is FinishReason.EOS


def test_penalties_come_before(engine: Engine) -> None:
    penalised = answer(engine, DIGITS, repetition_penalty=50.0, presence_penalty=2.0)
    assert len(penalised.text) == 8
    assert penalised.text[3] == "-"


def test_preempted_rows_go_on_as_they_were(
    make_engine: Callable[..., Engine], engine: Engine
) -> None:
    asks = [request(FORM, temperature=0.9, seed=i) for i in range(8)]
    alone = [outcomes([engine.submit(ask)])[0] for ask in asks]
    per_token = 2 * 3 * 2 * 16 * 4  # of the tiny base's KV
    small = make_engine(kv_cache_bytes=per_token * 16 * 20)
    assert outcomes([small.submit(ask) for ask in asks]) == alone
    assert small.stats().preemptions > 0


def test_an_adapter_that_adds_tokens(engine: Engine, tiny_base: Path, tmp_path: Path) -> None:
    directory = save_adapter(tiny_base, tmp_path / "more", added_tokens=2)
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<mood>"])
    tokenizer.add_special_tokens({"eos_token": "<over>"})
    tokenizer.save_pretrained(directory)
    engine.load_adapter(directory, "more")
    form = StructuredAnswer("choice", choices=("a<mood>b",))
    mood, over = VOCAB, VOCAB + 1
    bias = ((mood, 100.0), (over, 100.0))
    mixed = [
        engine.submit(request(form, "more", logit_bias=bias)),
        engine.submit(request(form)),
        engine.submit(request(form, "more", logit_bias=((mood, -100.0), (over, -100.0)))),
    ]
    own, spelled, base_s_end = [handle.result().choices[0] for handle in mixed]
    assert {c.text for c in (own, spelled, base_s_end)} == {"a<mood>b"}
    assert own.token_ids == (64, mood, 65, over)
    assert len(spelled.token_ids) == len(base_s_end.token_ids) == 9
    assert spelled.token_ids[-1] == base_s_end.token_ids[-1] == EOS


def test_all_wrong_fields_are_named(engine: Engine) -> None:
    for form, why in (
        (StructuredAnswer("xml", "a"), "kind must be one of json_object"),
        (StructuredAnswer("regex"), "needs a text"),
        (StructuredAnswer("choice"), "needs choices"),
        (StructuredAnswer("choice", choices=("a", "")), "not be empty"),
        (StructuredAnswer("json_object", "{}"), "takes no text"),
        (StructuredAnswer("regex", "\ud800"), "halves of characters"),
        (StructuredAnswer("regex", "a" * (1 << 16) + "b"), "at most 65536 bytes"),
        (StructuredAnswer("regex", "(?=a)"), "look-around"),
        (StructuredAnswer("regex", "[a&&b]"), "no token can begin"),
        (StructuredAnswer("lark", "start: /a/ | other"), "other"),
        (StructuredAnswer("lark", 'start[temperature=0.5]: "a"'), "temperature"),
        (StructuredAnswer("lark", '{"grammars": [{"json_schema": {}}]}'), "no Lark grammar"),
    ):
        with pytest.raises(InvalidRequestError, match=f"structured: .*{why}"):
            engine.submit(request(form))
