"""From logits to tokens, each row with its own parameters."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch

from .kernels.sampling import SampleRow, sample_rows_reference
from .model.output import StepOutput
from .sequence import Sequence
from .types import SamplingParams, TokenLogprob

SampleRows = Callable[[Seq[SampleRow]], list[int]]


@dataclass(frozen=True)
class Sampled:
    """A row's outcome: the token, its logprobs if asked for, or the reason why it has none."""

    token_id: int = -1
    logprob: TokenLogprob | None = None
    error: str | None = None


def sample(
    output: StepOutput, sequences: Seq[Sequence], sample_rows: SampleRows = sample_rows_reference
) -> list[Sampled]:
    """Choose one token per row of the output, N rows for N sequences.

    Logprobs are those of the model, before penalties, temperature and filters. A row with NaN
    logits fails alone.
    """
    logits, tokens = output.logits, list(output.greedy)
    valid = [i for i, token in enumerate(tokens) if token >= 0]
    penalised = {
        i: apply_penalties(logits[i], sequences[i].tokens, sequences[i].num_prompt, sequences[i].sampling)
        for i in valid if _has_penalties(sequences[i].sampling)
    }
    drawn = [i for i in valid if sequences[i].sampling.temperature > 0]
    rows = [_row(penalised.get(i, logits[i]), sequences[i]) for i in drawn]
    for i, row in penalised.items():
        tokens[i] = int(row.argmax())
    for i, token in zip(drawn, sample_rows(rows), strict=True):
        tokens[i] = token
    return [_sampled(logits[i], token, sequences[i].sampling.logprobs) for i, token in enumerate(tokens)]


def _sampled(row: torch.Tensor, token: int, logprobs: int | None) -> Sampled:
    if token < 0:
        return Sampled(error="the model produced NaN or infinite logits")
    return Sampled(token, None if logprobs is None else _logprob(row, token, logprobs))


def _row(logits: torch.Tensor, seq: Sequence) -> SampleRow:
    p = seq.sampling
    # One draw per token from a stream of the sequence's own: neighbours do not change it.
    u = float(torch.rand((), generator=_generator(seq)))
    return SampleRow(logits, p.temperature, p.top_k, p.top_p, p.min_p, u)


def _has_penalties(p: SamplingParams) -> bool:
    return p.repetition_penalty != 1 or p.presence_penalty != 0 or p.frequency_penalty != 0


def _generator(seq: Sequence) -> torch.Generator:
    if seq.generator is None:
        seq.generator = torch.Generator()
        if seq.sampling.seed is None:
            seq.generator.seed()
        else:
            seq.generator.manual_seed((seq.sampling.seed + seq.index) % 2**63)
    return seq.generator


def apply_penalties(row: torch.Tensor, tokens: Seq[int], num_prompt: int, p: SamplingParams) -> torch.Tensor:
    """Repetition, presence and frequency penalties on one row (vocab,); a new tensor."""
    row = row.clone()
    if p.repetition_penalty != 1:
        seen = torch.tensor(sorted(set(tokens)), device=row.device)
        values = row[seen]
        row[seen] = torch.where(values > 0, values / p.repetition_penalty, values * p.repetition_penalty)
    generated = tokens[num_prompt:]
    if generated:
        ids, counts = torch.tensor(generated, device=row.device).unique(return_counts=True)
        row[ids] -= p.presence_penalty + p.frequency_penalty * counts.to(row.dtype)
    return row


def _logprob(row: torch.Tensor, token: int, top: int) -> TokenLogprob:
    logprobs = row.log_softmax(-1)
    best = logprobs.topk(min(top, row.shape[-1]))
    pairs = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return TokenLogprob(token, float(logprobs[token]), pairs)
