"""Sampling: filters and penalties against their definitions, seeds, and rows that stay apart."""

from __future__ import annotations

import math

import pytest
import torch

from lora_runtime import SamplingParams
from lora_runtime.model.output import StepOutput
from lora_runtime.sampling import apply_penalties, filter_logits, sample
from lora_runtime.sequence import Sequence


def make_sequence(prompt: tuple[int, ...] = (1,), index: int = 0, **params: object) -> Sequence:
    return Sequence(None, index, prompt, SamplingParams(**params), None, None, 99)  # type: ignore[arg-type]


def kept(probs: list[float], **params: object) -> list[int]:
    row = filter_logits(torch.tensor(probs).log(), SamplingParams(**params))
    return torch.isfinite(row).nonzero().flatten().tolist()


def test_filters() -> None:
    probs = [0.1, 0.4, 0.2, 0.3]
    assert kept(probs, top_k=2) == [1, 3]
    assert kept(probs, top_p=0.65) == [1, 3]
    assert kept(probs, top_p=0.75) == [1, 2, 3]
    assert kept(probs, top_p=1e-6) == [1]
    assert kept(probs, min_p=0.6) == [1, 3]
    assert kept(probs, min_p=1.0) == [1]
    assert kept(probs, top_k=3, top_p=0.5, min_p=0.1) == [1, 3]
    assert kept(probs) == [0, 1, 2, 3]


def test_penalties() -> None:
    row = torch.tensor([1.0, -2.0, 3.0, 4.0])
    params = SamplingParams(repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25)
    out = apply_penalties(row, [0, 1, 3, 3], num_prompt=2, p=params)
    # Tokens 0 and 1 are in the prompt, 3 was generated twice.
    assert out.tolist() == [0.5, -4.0, 3.0, 4.0 / 2 - 0.5 - 2 * 0.25]
    assert row.tolist() == [1.0, -2.0, 3.0, 4.0]


def test_draws_follow_the_distribution() -> None:
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05])
    seq = make_sequence(temperature=1.0, seed=3)
    count = 4000
    draws = torch.tensor([sample(StepOutput.of(probs.log()[None]), [seq])[0].token_id for _ in range(count)])
    assert (draws.bincount(minlength=4) / count).tolist() == pytest.approx(probs.tolist(), abs=0.03)


def test_temperature_sharpens() -> None:
    logits = torch.tensor([[1.0, 2.0]])
    seq = make_sequence(temperature=0.25, seed=0)
    share = sum(sample(StepOutput.of(logits), [seq])[0].token_id for _ in range(2000)) / 2000
    assert share == pytest.approx(1 / (1 + math.exp(-4)), abs=0.02)


def test_a_seed_repeats_whatever_the_neighbours() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))

    def draw(neighbours: int) -> list[int]:
        seq = make_sequence(temperature=1.0, seed=7)
        others = [make_sequence(temperature=1.0) for _ in range(neighbours)]
        return [sample(StepOutput.of(logits[: neighbours + 1]), [seq, *others])[0].token_id for _ in range(20)]

    assert draw(0) == draw(2)


def test_choices_of_one_seed_differ() -> None:
    logits = torch.zeros(1, 1000)
    rows = [make_sequence(index=i, temperature=1.0, seed=7) for i in range(4)]
    first = [sample(StepOutput.of(logits), [row])[0].token_id for row in rows]
    assert len(set(first)) == 4


def test_rows_have_their_own_parameters() -> None:
    logits = torch.tensor([[0.0, 5.0, 4.0]]).repeat(3, 1)
    rows = [make_sequence(), make_sequence((1,), repetition_penalty=2.0), make_sequence(logprobs=2)]
    results = sample(StepOutput.of(logits), rows)
    assert [r.token_id for r in results] == [1, 2, 1]
    assert results[0].logprob is None
    expected = torch.tensor([0.0, 5.0, 4.0]).log_softmax(-1).tolist()
    assert results[2].logprob is not None
    assert results[2].logprob.logprob == pytest.approx(expected[1])
    assert results[2].logprob.top == ((1, pytest.approx(expected[1])), (2, pytest.approx(expected[2])))


def test_a_nan_row_fails_alone() -> None:
    logits = torch.tensor([[0.0, 1.0], [float("nan"), 1.0]])
    good, bad = sample(StepOutput.of(logits), [make_sequence(), make_sequence()])
    assert (good.token_id, good.error) == (1, None)
    assert bad.error is not None
