"""Streams: the increments together are the unary text, whole characters, without stop strings."""

from __future__ import annotations

import pytest
import torch

from lora_runtime import Engine, FinishReason, Request, SamplingParams
from lora_runtime.scheduling.batch import StepBatch, StepOutput

from ...support.engines import Forward, wrap_forward
from ...support.models import SCRIPTS, make_tokenizer


class Parrot:
    """Replaces the forward's logits so that every sequence says a fixed text: real engine, known
    output."""

    def __init__(self, engine: Engine, text: str) -> None:
        self.engine, self.ids = engine, make_tokenizer()(text)["input_ids"]
        wrap_forward(engine, self._around)

    def _around(self, forward: Forward) -> Forward:
        self._forward = forward
        return self

    def __call__(self, batch: StepBatch) -> StepOutput:
        logits = torch.full_like(self._forward(batch).logits, -10.0)
        for row, seq in zip(logits, batch.sampling, strict=True):
            row[self.ids[seq.num_generated % len(self.ids)]] = 10.0
        return StepOutput.of(logits)


@pytest.mark.parametrize("text", SCRIPTS)
def test_increments_equal_unary_text(engine: Engine, text: str) -> None:
    Parrot(engine, text)
    length = len(text.encode())
    request = Request(
        prompt=text,
        adapter_id="a1",
        sampling=SamplingParams(max_new_tokens=length, ignore_eos=True),
    )
    events = list(engine.stream(request))
    assert "".join(e.text for e in events) == engine.generate(request).text == text
    assert not any("\ufffd" in e.text for e in events)
    assert events[-1].finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("text", SCRIPTS)
def test_a_cut_character_is_left_out(engine: Engine, text: str) -> None:
    Parrot(engine, text)
    for length in range(1, len(text.encode())):
        request = Request(
            prompt="x", sampling=SamplingParams(max_new_tokens=length, ignore_eos=True)
        )
        assert engine.generate(request).text == text.encode()[:length].decode(errors="ignore")


@pytest.mark.parametrize(
    ("text", "stop", "kept"),
    [
        ("one two three", "two", "one "),
        ("one two three", "e t", "on"),
        ("你好，世界 🎉 done", "🎉", "你好，世界 "),
        ("aaab", "aab", "a"),
        ("no match here", "xyz", "no match here"),
    ],
)
def test_stop_strings(engine: Engine, text: str, stop: str, kept: str) -> None:
    Parrot(engine, text)
    sampling = SamplingParams(max_new_tokens=len(text.encode()), stop=(stop,), ignore_eos=True)
    request = Request(prompt="x", sampling=sampling)
    events = list(engine.stream(request))
    assert "".join(e.text for e in events) == engine.generate(request).text == kept
    expected = FinishReason.STOP if stop in text else FinishReason.LENGTH
    assert events[-1].finish_reason is expected


def test_eos_and_stop_tokens_end_without_text(engine: Engine) -> None:
    Parrot(engine, "abc</s>def")
    done = engine.generate(Request(prompt="x", sampling=SamplingParams(max_new_tokens=9))).choices[
        0
    ]
    assert (done.text, done.finish_reason, len(done.token_ids)) == ("abc", FinishReason.EOS, 4)
    stop_at_c = make_tokenizer()("c")["input_ids"]
    done = engine.generate(
        Request(
            prompt="x", sampling=SamplingParams(max_new_tokens=9, stop_token_ids=tuple(stop_at_c))
        )
    ).choices[0]
    assert (done.text, done.finish_reason) == ("ab", FinishReason.STOP)
    done = engine.generate(
        Request(prompt="x", sampling=SamplingParams(max_new_tokens=7, ignore_eos=True))
    ).choices[0]
    assert (done.text, done.finish_reason) == ("abcdef", FinishReason.LENGTH)
