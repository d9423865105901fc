"""Sampling: filters and penalties against their definitions, seeds, and rows that stay apart."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lora_runtime import SamplingParams
from lora_runtime.backends.triton.host_reads import reads_on_host
from lora_runtime.kernels.cpu import ops
from lora_runtime.kernels.sampling import SampleRow, filter_logits, sample_rows_reference
from lora_runtime.kernels.sampling_batched import GROUP_ROWS, sample_rows_batched
from lora_runtime.requests.sequence import Sequence, TokenCounts
from lora_runtime.sampling.penalties import apply_penalties, apply_penalties_reference
from lora_runtime.sampling.sampling import SampleRows, sample
from lora_runtime.scheduling.batch import StepOutput

from ...support.device import DEVICE


def make_sequence(prompt: tuple[int, ...] = (1,), index: int = 0, **params: object) -> Sequence:
    return Sequence(None, index, prompt, SamplingParams(**params), None, 99)  # type: ignore[arg-type]


def kept(probs: list[float], top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> list[int]:
    row = filter_logits(torch.tensor(probs).log(), top_k, top_p, min_p)
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
    out = apply_penalties_reference(row, [0, 1, 3, 3], num_prompt=2, p=params)
    # Tokens 0 and 1 are in the prompt, 3 was generated twice.
    assert out.tolist() == [0.5, -4.0, 3.0, 4.0 / 2 - 0.5 - 2 * 0.25]
    assert row.tolist() == [1.0, -2.0, 3.0, 4.0]


def test_penalties_of_many_rows_are_those_of_each() -> None:
    rng, g = random.Random(5), torch.Generator().manual_seed(5)
    pick = [
        SamplingParams(repetition_penalty=r, presence_penalty=p, frequency_penalty=f)
        for r, p, f in (
            (1.3, 0.7, 0.1),
            (1.0, 0.3, 0.0),
            (0.7, 0.0, -1.9),
            (1.1, 0.0, 0.0),
            (100.0, -2.0, 2.0),
        )
    ]
    prompts = [[rng.randrange(200) for _ in range(rng.choice((1, 7, 300)))] for _ in range(40)]
    params = [pick[i % len(pick)] for i in range(len(prompts))]
    rows = [prompt.copy() for prompt in prompts]
    counts = [TokenCounts(prompt) for prompt in prompts]
    for _ in range(4):  # the counts go on from step to step
        logits = 4 * torch.randn(len(rows), 200, generator=g)
        logits[:, 190:] = -math.inf
        expected = [
            apply_penalties_reference(*r)
            for r in zip(logits, rows, map(len, prompts), params, strict=True)
        ]
        apply_penalties(logits, counts, params)
        assert torch.equal(logits, torch.stack(expected))
        for row, count in zip(rows, counts, strict=True):
            row += [rng.randrange(200) for _ in range(rng.choice((0, 1, 1, 30)))]
            count.update(row)


def test_logprobs_of_many_rows_are_those_of_each() -> None:
    logits = torch.randn(6, 9, generator=torch.Generator().manual_seed(2))
    asked = [None, 0, 3, 20, None, 1]
    sequences = [
        make_sequence(
            (1, 2), logprobs=k, temperature=0.5 * (i % 2), seed=i, presence_penalty=0.1 * (i // 2)
        )
        for i, k in enumerate(asked)
    ]
    logits[5, 0] = math.nan
    results = sample(StepOutput.of(logits), sequences)
    assert results[5].error is not None
    for row, result, k in zip(logits[:5], results, asked, strict=False):
        if k is None:
            assert result.logprob is None
            continue
        values = row.log_softmax(-1)
        best = values.topk(min(k, 9))
        assert result.logprob is not None
        assert (result.logprob.token_id, result.logprob.logprob) == (
            result.token_id,
            float(values[result.token_id]),
        )
        assert result.logprob.top == tuple(
            zip(best.indices.tolist(), best.values.tolist(), strict=True)
        )


def test_penalties_change_greedy_and_drawn_rows_alike() -> None:
    logits = torch.tensor([[0.0, 5.0, 4.9]]).repeat(2, 1)
    seqs = [
        make_sequence(presence_penalty=1.0),
        make_sequence(presence_penalty=1.0, temperature=1e-4),
    ]
    found = []
    for _ in range(6):
        results = sample(StepOutput.of(logits), seqs, sample_rows_batched)
        for seq, result in zip(seqs, results, strict=True):
            seq.tokens.append(result.token_id)
        found.append([r.token_id for r in results])
    # A token pays once: then both have paid.
    assert found == [[1, 1], [2, 2], [1, 1], [1, 1], [1, 1], [1, 1]]


@contextmanager
def host_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What would make the host wait for a device: copies back, and ops that read values."""
    waits: list[str] = []

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if reads_on_host(func, args):
                waits.append(func.name())
            return func(*args, **(kwargs or {}))

    def counted(own: Callable[..., Any]) -> Callable[..., Any]:
        def tolist(tensor: torch.Tensor) -> Any:
            waits.append("tolist")
            return own(tensor)

        return tolist

    with monkeypatch.context() as patch, Reads():
        patch.setattr(torch.Tensor, "tolist", counted(torch.Tensor.tolist))
        yield waits


def test_the_host_waits_once_for_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(3 * GROUP_ROWS, 2000, generator=torch.Generator().manual_seed(3))
    output = StepOutput.of(logits)
    rows = [
        SampleRow(row, 1.0, (0, 5, 1500)[i % 3], (1.0, 0.9)[i % 2], 0.1, 0.5)
        for i, row in enumerate(logits)
    ]
    with host_waits(monkeypatch) as waits:
        sample_rows_batched(rows)
    assert waits == ["tolist"]
    with host_waits(monkeypatch) as waits:
        sample(
            output,
            [make_sequence(presence_penalty=1.0, logprobs=5) for _ in rows],
            sample_rows_batched,
        )
    assert waits == ["tolist", "tolist"]
    with host_waits(monkeypatch) as waits:
        sample(output, [make_sequence() for _ in rows], sample_rows_batched)
    assert waits == []


def test_draws_follow_the_distribution() -> None:
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05])
    seq = make_sequence(temperature=1.0, seed=3)
    count = 4000
    draws = torch.tensor(
        [sample(StepOutput.of(probs.log()[None]), [seq])[0].token_id for _ in range(count)]
    )
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
        return [
            sample(StepOutput.of(logits[: neighbours + 1]), [seq, *others])[0].token_id
            for _ in range(20)
        ]

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
    assert results[2].logprob.top == (
        (1, pytest.approx(expected[1])),
        (2, pytest.approx(expected[2])),
    )


def test_a_nan_row_fails_alone() -> None:
    logits = torch.tensor([[0.0, 1.0], [float("nan"), 1.0]])
    good, bad = sample(StepOutput.of(logits), [make_sequence(), make_sequence()])
    assert (good.token_id, good.error) == (1, None)
    assert bad.error is not None


def sample_on_device(rows: list[SampleRow]) -> list[int]:
    """As a base does that is not on the CPU."""
    return sample_rows_batched([replace(row, logits=row.logits.to(DEVICE)) for row in rows])


IMPLEMENTATIONS = {
    "torch": sample_rows_reference,
    "batched": sample_on_device,
    "cpp": ops.sample_rows,
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
@pytest.mark.parametrize("vocab", [3, 50, 1000, 4099])
def test_the_draw_is_the_place_in_the_distribution(vocab: int, implementation: SampleRows) -> None:
    g = torch.Generator().manual_seed(vocab)
    rows = [
        SampleRow(
            3 * torch.randn(vocab, generator=g).round(decimals=i % 3),
            (0.2, 0.7, 1.0, 3.0)[i % 4],
            (0, 0, 1, 7, 200)[i % 5],
            (1.0, 0.95, 0.3)[i % 3],
            (0.0, 0.05)[i % 2],
            float(torch.rand((), generator=g)),
        )
        for i in range(120)
    ]
    for row, token in zip(rows, implementation(rows), strict=True):
        filtered = filter_logits(row.logits / row.temperature, row.top_k, row.top_p, row.min_p)
        assert filtered[token].isfinite(), row
        mass = filtered.double().softmax(-1).cumsum(-1)
        before = float(mass[token - 1]) if token else 0.0
        assert before - 1e-5 <= row.u <= float(mass[token]) + 1e-5, row


def test_rows_drawn_at_once_are_those_drawn_alone() -> None:
    g = torch.Generator().manual_seed(0)
    rows = [
        SampleRow(
            2 * torch.randn(300, generator=g).round(decimals=1),
            (0.5, 1.0)[i % 2],
            (0, 5, 299, 300, 999)[i % 5],
            (1.0, 0.9, 0.2)[i % 3],
            (0.0, 0.1, 0.9)[i % 3],
            float(torch.rand((), generator=g)),
        )
        for i in range(200)
    ]
    no_end = rows[0].logits.index_fill(0, torch.arange(290, 300), -math.inf)
    rows.append(SampleRow(no_end, 1, 0, 1, 0, 1 - 2**-24))
    assert (
        sample_on_device(rows)
        == sample_rows_reference(rows)
        == [t for row in rows for t in sample_on_device([row])]
    )
    assert sample_rows_batched([]) == []


def hard_logits(vocab: int, rng: random.Random, g: torch.Generator) -> torch.Tensor:
    """Ties of all, of many and of a few, huge and tiny differences, tokens that cannot be."""
    normal = torch.randn(vocab, generator=g)
    steps = torch.randint(0, 3, (vocab,), generator=g) * rng.choice([math.log(2), 1.0, 100.0])
    impossible = normal.masked_fill(torch.rand(vocab, generator=g) < 0.7, -math.inf)
    impossible[rng.randrange(vocab)] = 0.0
    return rng.choice(
        [
            3 * normal,
            (2 * normal).round(decimals=1),
            torch.zeros(vocab),
            steps,
            1e30 * normal,
            1000 + 1e-3 * normal,
            impossible,
        ]
    )


@pytest.mark.parametrize("vocab", [1, 2, 50, 1024, 3001])
def test_hard_rows_drawn_at_once_are_those_of_the_reference(vocab: int) -> None:
    rng, g = random.Random(vocab), torch.Generator().manual_seed(vocab)
    rows = [
        SampleRow(
            hard_logits(vocab, rng, g),
            rng.choice([1e-40, 0.1, 0.7, 1.0, 100.0]),
            rng.choice([0, 0, 1, 2, 5, 40, 1023, 1024, 1025, vocab - 1, vocab, vocab + 5]),
            rng.choice([1.0, 1.0, 1e-9, 0.1, 0.25, 0.5, 0.9, 0.999999, 1 - 2**-53]),
            rng.choice([0.0, 0.0, 0.05, 0.5, 1.0]),
            rng.choice([0.0, 0.25, 0.5, 0.75, 1 - 2**-24, rng.randrange(2**24) / 2**24]),
        )
        for _ in range(100)
    ]
    assert sample_rows_batched(rows) == sample_rows_reference(rows)


def test_ties_behind_a_small_top_k_count_for_top_p() -> None:
    logits = torch.tensor([1.0, *[0.0] * 2000])
    for u in (
        0.0,
        0.3,
        0.999,
    ):  # top-k keeps all: the first token's mass does not suffice for top-p by far
        rows = [SampleRow(logits, 1.0, 3, 0.5, 0.0, u)]
        assert sample_rows_batched(rows) == sample_rows_reference(rows)
        assert sample_rows_batched(rows)[0] == pytest.approx(u * 2000, abs=3)


def test_a_nan_row_does_not_stop_the_others_draw() -> None:
    logits = torch.stack([torch.full((2000,), math.nan), torch.eye(2000)[7] * 100])
    for top_k in (0, 5, 1500):
        bad, good = sample_rows_batched(
            [SampleRow(row, 1.0, top_k, 0.9, 0.1, 0.5) for row in logits]
        )
        assert (bad, good) == (-1, 7)


def test_the_ends_of_the_distribution() -> None:
    logits = torch.tensor([-math.inf, 1.0, -200.0, 1.0, -math.inf])
    for implementation in IMPLEMENTATIONS.values():
        for u, token in ((0.0, 1), (0.49, 1), (0.51, 3), (1 - 2**-24, 3)):
            assert implementation([SampleRow(logits, 1.0, 0, 1.0, 0.0, u)]) == [token], (
                implementation,
                u,
            )


def test_hardly_any_temperature_is_greedy() -> None:
    logits = torch.tensor([0.5, 2.0, -3.0, 1.9])
    for implementation in IMPLEMENTATIONS.values():
        for temperature in (1e-46, 1e-40, 1e-4):
            assert implementation([SampleRow(logits, temperature, 2, 0.9, 0.0, 0.7)]) == [1]


def test_an_infinite_row_fails() -> None:
    for row in ([0.0, math.inf], [-math.inf, -math.inf]):
        (result,) = sample(StepOutput.of(torch.tensor([row])), [make_sequence(temperature=1.0)])
        assert result.error is not None
