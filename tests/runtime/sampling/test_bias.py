"""Biases of tokens and the least length: against a plain reference, and what they leave alone."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_runtime import Engine, FinishReason, InvalidRequestError, Request, SamplingParams
from lora_runtime.kernels.sampling_batched import sample_rows_batched
from lora_runtime.requests.sequence import Sequence
from lora_runtime.requests.text.stop_matcher import StopMatcher
from lora_runtime.requests.token_bias import token_bias
from lora_runtime.sampling.bias import apply_bias, apply_bias_reference, is_biased
from lora_runtime.sampling.penalties import apply_penalties_reference
from lora_runtime.sampling.sampling import sample
from lora_runtime.scheduling.batch import StepOutput

from ...support.device import DEVICE
from .test_sampling import host_waits

VOCAB = 60
ENDS = {0, 7, 59}


def make_sequence(params: SamplingParams, generated: int = 0) -> Sequence:
    bias = token_bias(params, ENDS, VOCAB)
    seq = Sequence(None, 0, (1, 2), params, None, 99, bias=bias)  # type: ignore[arg-type]
    seq.tokens += [3] * generated
    return seq


def random_rows(rng: random.Random, count: int) -> list[Sequence]:
    def one() -> Sequence:
        ids = rng.sample(range(VOCAB), rng.choice((0, 0, 1, 5, VOCAB)))
        params = SamplingParams(
            logit_bias=tuple((t, rng.choice((-100.0, 100.0, rng.gauss(0, 3)))) for t in ids),
            min_tokens=rng.choice((0, 0, 1, 4)),
            presence_penalty=rng.choice((0, 0, 1.5)),
            repetition_penalty=rng.choice((1, 1, 1.3)),
            temperature=rng.choice((0, 0.7)),
            seed=rng.randrange(99),
            logprobs=rng.choice((None, 0, 3)),
        )
        return make_sequence(params, rng.randrange(6))

    return [one() for _ in range(count)]


def reference(row: torch.Tensor, seq: Sequence) -> torch.Tensor:
    p = seq.sampling
    biased = apply_bias_reference(row, seq.num_generated, dict(p.logit_bias), p.min_tokens, ENDS)
    return apply_penalties_reference(biased, seq.tokens, seq.num_prompt, p)


def test_rows_together_are_those_of_the_reference_one_by_one() -> None:
    rng, g = random.Random(1), torch.Generator().manual_seed(1)
    for _ in range(30):
        rows = random_rows(rng, rng.choice((1, 2, 17)))
        logits = 3 * torch.randn(len(rows), VOCAB, generator=g)
        expected = torch.stack(
            [
                apply_bias_reference(
                    row, s.num_generated, dict(s.sampling.logit_bias), s.sampling.min_tokens, ENDS
                )
                for row, s in zip(logits, rows, strict=True)
            ]
        )
        found = logits.to(DEVICE)
        apply_bias(found, rows)
        assert torch.equal(found.cpu(), expected)
        changed = [not torch.equal(a, b) for a, b in zip(logits, expected, strict=True)]
        assert all(is_biased(s) for s, is_changed in zip(rows, changed, strict=True) if is_changed)


def test_samples_are_those_of_each_row_alone_and_logprobs_the_models() -> None:
    """Beside rows of any other kind, penalised, drawn or plain ones."""
    rng, g = random.Random(2), torch.Generator().manual_seed(2)
    for _ in range(30):
        seed = rng.random()
        together, alone = (random_rows(random.Random(seed), 11) for _ in range(2))
        logits = 3 * torch.randn(11, VOCAB, generator=g)
        results = sample(StepOutput.of(logits.clone()), together)
        for row, seq, result in zip(logits, alone, results, strict=True):
            changed = reference(row, seq)
            if seq.sampling.temperature == 0:
                assert result.token_id == int(changed.argmax())
            assert [result] == sample(StepOutput.of(row[None].clone()), [seq])
            assert changed[result.token_id] > -math.inf
            if seq.sampling.logprobs is not None:
                assert result.logprob is not None
                assert result.logprob.logprob == float(row.log_softmax(-1)[result.token_id])


def test_drawn_rows_follow_the_biased_distribution() -> None:
    params = SamplingParams(temperature=1.0, seed=3, logit_bias=((4, 100.0), (5, 99.0)))
    seq = make_sequence(params)
    count = 2000
    found = [sample(StepOutput.of(torch.zeros(1, VOCAB)), [seq])[0].token_id for _ in range(count)]
    share = found.count(4) / count
    assert set(found) == {4, 5}
    assert share == pytest.approx(1 / (1 + math.exp(-1)), abs=0.04)


def test_rows_without_a_bias_pay_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, past = make_sequence(SamplingParams()), make_sequence(SamplingParams(min_tokens=3), 3)
    assert plain.bias is None
    output = StepOutput.of(torch.randn(2, VOCAB))
    monkeypatch.setattr("lora_runtime.sampling.sampling.apply_bias", None)
    assert [r.token_id for r in sample(output, [plain, past])] == output.greedy


def test_the_host_waits_no_more_than_for_penalties(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [make_sequence(SamplingParams(logit_bias=((3, 1.0),), min_tokens=2)) for _ in range(9)]
    output = StepOutput.of(torch.randn(9, VOCAB))
    with host_waits(monkeypatch) as waits:
        sample(output, rows, sample_rows_batched)
    assert waits == ["tolist"]  # for the best tokens


WRONG: dict[str, tuple[SamplingParams, str]] = {
    "over": (SamplingParams(logit_bias=((1, 100.5),)), "logit_bias: each bias must be in"),
    "nan": (SamplingParams(logit_bias=((1, math.nan),)), "logit_bias: each bias must be in"),
    "twice": (SamplingParams(logit_bias=((1, 1.0), (1, 2.0))), "logit_bias: a token is named"),
    "many": (SamplingParams(logit_bias=((1, 1.0),) * 1025), "logit_bias: at most 1024 tokens"),
    "negative": (SamplingParams(min_tokens=-1), "min_tokens: must be at least 0"),
    "longer": (SamplingParams(min_tokens=9, max_new_tokens=8), "min_tokens: must be at least 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_meant_is_refused_by_name(name: str) -> None:
    params, text = WRONG[name]
    with pytest.raises(InvalidRequestError, match=text):
        Request(prompt="x", sampling=params).validate()


def test_ids_outside_the_rows_vocabulary_are_refused(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    size = engine.base.vocab_size
    for token in (size, -1):
        with pytest.raises(InvalidRequestError, match=f"{token} is outside the vocabulary"):
            engine.submit(Request(prompt="x", sampling=SamplingParams(logit_bias=((token, 1.0),))))
    with pytest.raises(InvalidRequestError, match="is outside the vocabulary of 40"):
        token_bias(SamplingParams(logit_bias=((40, 1.0),)), (), 40)  # an adapter's, with fewer
    with pytest.raises(InvalidRequestError, match="min_tokens: every token ends the answer"):
        token_bias(SamplingParams(min_tokens=1), range(50), 40)


def test_answers_with_a_bias(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()

    def tokens(**sampling: Any) -> tuple[int, ...]:
        params = SamplingParams(max_new_tokens=6, ignore_eos=True, **sampling)
        return engine.generate(Request(prompt="hello", sampling=params)).choices[0].token_ids

    assert tokens(logit_bias=((65, 100.0),)) == (65,) * 6
    best = tokens()[0]
    assert best not in tokens(logit_bias=((best, -100.0),))
    assert tokens(logit_bias=((best, 0.0),)) == tokens()


def test_nothing_ends_an_answer_before_its_least_length(
    make_engine: Callable[..., Engine],
) -> None:
    engine = make_engine()
    end = min(engine.base.eos_token_ids)

    def choice(**sampling: Any) -> Any:
        params = SamplingParams(max_new_tokens=9, **sampling)
        return engine.generate(Request(prompt="hello", sampling=params)).choices[0]

    endings: list[dict[str, Any]] = [
        {"logit_bias": ((end, 100.0),)},
        {"stop_token_ids": (65,), "logit_bias": ((65, 100.0),)},
    ]
    for ending in endings:
        assert len(choice(**ending).token_ids) == 1
        later = choice(min_tokens=4, **ending)
        assert (len(later.token_ids), later.finish_reason) == (
            5,
            choice(**ending).finish_reason,
        )
    unending = choice(min_tokens=4, ignore_eos=True, logit_bias=((end, 100.0),))
    assert [t == end for t in unending.token_ids] == [False] * 4 + [True] * 5
    stopped = choice(min_tokens=4, stop=("b", "bbb"), logit_bias=((65, 100.0),))
    # The fifth ends it: with the two before it, which were held back.
    assert (stopped.text, stopped.finish_reason) == ("bb", FinishReason.STOP)
    whole = choice(min_tokens=9, stop=("b",), logit_bias=((65, 100.0),))
    assert (whole.text, whole.finish_reason) == ("b" * 9, FinishReason.LENGTH)


@given(
    st.text("ab\0", max_size=20),
    st.text("ab\0", max_size=20),
    st.lists(st.text("ab\0", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_stop_strings_count_from_where_they_may_end_an_answer(
    early: str, late: str, stops: list[str]
) -> None:
    """One that begins before counts if it is complete behind; of two that end together, the longer."""
    matcher = StopMatcher(stops)
    out = [matcher.push(piece, ends=False) for piece in (early[:7], early[7:])]
    out.append(matcher.push(late))
    text = "".join(piece for piece, _ in out)
    whole = early + late
    ends = [
        (end, end - len(stop))
        for stop in stops
        for end in range(max(len(early) + 1, len(stop)), len(whole) + 1)
        if whole[:end].endswith(stop)
    ]
    assert [stopped for _, stopped in out] == [False, False, bool(ends)]
    if ends:
        assert text == whole[: min(ends)[1]]
    else:
        assert text + matcher.flush() == whole


@given(
    st.text("ab", max_size=9),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_a_token_that_ends_the_answer_completes_what_began_early(
    early: str, stops: list[str]
) -> None:
    matcher = StopMatcher(stops)
    text, _ = matcher.push(early, ends=False)
    more, stopped = matcher.push_end("b")
    begun = [len(early) + 1 - len(stop) for stop in stops if (early + "b").endswith(stop)]
    assert stopped == bool(begun)
    assert text + more == (early[: min(begun)] if begun else text)
