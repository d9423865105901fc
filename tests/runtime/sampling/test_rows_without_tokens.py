"""Rows that no token can be chosen from: NaN, infinities, and what penalties make of huge logits.
Every sampler says so, and the rows beside them get what they get alone."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from lora_runtime import InvalidRequestError, Request, SamplingParams
from lora_runtime.kernels.cpu import ops
from lora_runtime.kernels.sampling import SampleRow, sample_rows_reference
from lora_runtime.kernels.sampling_batched import sample_rows_batched
from lora_runtime.requests.sequence import Sequence as Tokens
from lora_runtime.sampling.sampling import Sampled, SampleRows, sample
from lora_runtime.scheduling.batch import StepOutput

from ...support.device import DEVICE


def _on_device(rows: Sequence[SampleRow]) -> list[int]:
    return sample_rows_batched([replace(r, logits=r.logits.to(DEVICE)) for r in rows])


SAMPLERS: dict[str, SampleRows] = {
    "torch": sample_rows_reference,
    "batched": _on_device,
    "cpp": ops.sample_rows,
}
EACH = pytest.mark.parametrize("draw", SAMPLERS.values(), ids=SAMPLERS)
VOCAB = 40
LARGEST = float(torch.finfo(torch.float32).max)


def _sound(g: torch.Generator) -> torch.Tensor:
    return 3 * torch.randn(VOCAB, generator=g)


def _broken(g: torch.Generator) -> list[torch.Tensor]:
    at = int(torch.randint(0, VOCAB, (), generator=g))
    rows = [_sound(g) for _ in range(4)]
    rows[0][at] = math.nan
    rows[1][at] = math.inf
    rows[2][:] = -math.inf
    rows[3][:] = math.nan
    mixed = _sound(g)
    mixed[at], mixed[at - 1] = math.nan, math.inf
    last = _sound(g)
    last[-1] = math.nan
    return [*rows, mixed, last, (1e30 * _sound(g)).half().float(), torch.full((VOCAB,), math.inf)]


def _possible(g: torch.Generator) -> list[torch.Tensor]:
    """Extreme rows that have tokens all the same."""
    lonely = torch.full((VOCAB,), -math.inf)
    lonely[7] = -LARGEST
    return [
        LARGEST * torch.sign(_sound(g)),
        lonely,
        torch.full((VOCAB,), -LARGEST),
        torch.zeros(VOCAB),
        _sound(g).bfloat16().float() * 1e37,
    ]


@EACH
@pytest.mark.parametrize("seed", range(3))
def test_a_draw_from_such_a_row_is_none(draw: SampleRows, seed: int) -> None:
    g, rng = torch.Generator().manual_seed(seed), random.Random(seed)

    def row(logits: torch.Tensor) -> SampleRow:
        return SampleRow(
            logits,
            rng.choice([1e-46, 5e-324, 0.7, 100.0]),
            rng.choice([0, 1, 5, VOCAB, 2**31 - 1]),
            rng.choice([1.0, 1e-45, 0.9]),
            rng.choice([0.0, 1e-45, 0.3, 1.0]),
            rng.choice([0.0, 0.37, 1 - 2**-24]),
        )

    sound = [row(logits) for logits in [*(_sound(g) for _ in range(9)), *_possible(g)]]
    broken = [row(logits) for logits in _broken(g)]
    mixed = [*sound, *broken]
    order = rng.sample(range(len(mixed)), len(mixed))
    found = dict(zip(order, draw([mixed[i] for i in order]), strict=True))
    expected = draw(sound) + [-1] * len(broken)
    assert [found[i] for i in range(len(mixed))] == expected
    assert expected[: len(sound)] == sample_rows_reference(sound)
    assert all(row.logits[t] > -math.inf for row, t in zip(sound, expected, strict=False))


def _sequence(**params: object) -> Tokens:
    return Tokens(None, 0, tuple(range(VOCAB)), SamplingParams(**params), None, 99)  # type: ignore[arg-type]


KINDS: dict[str, dict[str, object]] = {
    "greedy": {},
    "drawn": {"temperature": 0.8, "top_p": 0.9},
    "logprobs": {"logprobs": 20},
    "penalised": {"repetition_penalty": 1.3, "logprobs": 2},
    "drawn and penalised": {"temperature": 1.0, "presence_penalty": 1.0, "logprobs": 0},
}


@EACH
@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_row_fails_alone(draw: SampleRows, kind: str) -> None:
    g = torch.Generator().manual_seed(5)
    sound, broken = [_sound(g) for _ in range(4)], _broken(g)

    def run(rows: list[torch.Tensor]) -> list[Sampled]:
        sequences = [_sequence(seed=1, **KINDS[kind]) for _ in rows]
        return sample(StepOutput.of(torch.stack(rows)), sequences, draw)

    alone = run(sound)
    together = run([*broken, *sound])
    assert together[len(broken) :] == alone
    failed = Sampled(error="the model produced NaN or infinite logits")
    assert together[: len(broken)] == [failed] * len(broken)


@EACH
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_its_penalties_break_fails_alone(draw: SampleRows, temperature: float) -> None:
    """Logits as no model has them: a hundred times as far out float32 ends."""
    g = torch.Generator().manual_seed(6)
    rows = [_sound(g), 1e37 * _sound(g).abs(), -1e37 * _sound(g).abs() - 1e37, _sound(g)]
    penalties = [0.01, 0.01, 100.0, 1.0]

    def run(chosen: list[int]) -> list[tuple[int, object, str | None]]:
        sequences = [
            _sequence(
                temperature=temperature,
                seed=2,
                repetition_penalty=penalties[i],
                presence_penalty=-2.0,
                frequency_penalty=2.0,
                logprobs=3,
            )
            for i in chosen
        ]
        results = sample(StepOutput.of(torch.stack([rows[i] for i in chosen])), sequences, draw)
        return [(r.token_id, r.logprob, r.error) for r in results]

    good, overflown, below, other = run([0, 1, 2, 3])
    assert [good, other] == run([0, 3])
    assert good[2] is None
    for token, logprob, error in (overflown, below):
        assert (token, logprob) == (-1, None)
        assert error is not None


@pytest.mark.parametrize("penalty", [1e-38, 5e-324, 0.00999, 0.0, -1.0, 100.1, math.inf, math.nan])
def test_a_repetition_penalty_has_bounds(penalty: float) -> None:
    request = Request(prompt="x", sampling=SamplingParams(repetition_penalty=penalty))
    with pytest.raises(InvalidRequestError, match=r"repetition_penalty.*\[0\.01, 100\]"):
        request.validate()


def test_bounds_themselves_are_allowed() -> None:
    for penalty in (0.01, 100.0):
        Request(prompt="x", sampling=SamplingParams(repetition_penalty=penalty)).validate()
    with pytest.raises(InvalidRequestError, match="timeout_s"):
        Request(prompt="x", timeout_s=math.nan).validate()
