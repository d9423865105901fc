"""From logits to tokens, each row with its own parameters."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch

from .model.output import StepOutput
from .sequence import Sequence
from .types import SamplingParams, TokenLogprob


@dataclass(frozen=True)
class Sampled:
    """A row's outcome: the token, its logprobs if asked for, or the reason why it has none."""

    token_id: int = -1
    logprob: TokenLogprob | None = None
    error: str | None = None


def sample(output: StepOutput, sequences: Seq[Sequence]) -> list[Sampled]:
    """Choose one token per row of the output, N rows for N sequences.

    Logprobs are those of the model, before penalties, temperature and filters. A row with NaN
    logits fails alone.
    """
    logits, greedy = output.logits, output.greedy
    results = []
    for i, seq in enumerate(sequences):
        if greedy[i] < 0:
            results.append(Sampled(error="the model produced NaN logits"))
            continue
        p = seq.sampling
        token = greedy[i] if p.temperature == 0 and not _has_penalties(p) else _sample_row(logits[i], seq)
        results.append(Sampled(token, None if p.logprobs is None else _logprob(logits[i], token, p.logprobs)))
    return results


def _has_penalties(p: SamplingParams) -> bool:
    return p.repetition_penalty != 1 or p.presence_penalty != 0 or p.frequency_penalty != 0


def _sample_row(row: torch.Tensor, seq: Sequence) -> int:
    p = seq.sampling
    if _has_penalties(p):
        row = apply_penalties(row, seq.tokens, seq.num_prompt, p)
    if p.temperature == 0:
        return int(row.argmax())
    probs = filter_logits(row / p.temperature, p).softmax(-1)
    # argmax of p/Exp(1) draws from p (the exponential form of Gumbel-max), one stream per sequence.
    noise = torch.empty_like(probs).exponential_(generator=_generator(seq, row.device))
    return int((probs / noise).argmax())


def _generator(seq: Sequence, device: torch.device) -> torch.Generator:
    if seq.generator is None:
        seq.generator = torch.Generator(device)
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


def filter_logits(row: torch.Tensor, p: SamplingParams) -> torch.Tensor:
    """Set logits (vocab,) outside top-k, then top-p, then min-p to -inf; the best token always stays."""
    if 0 < p.top_k < row.shape[-1]:
        row = row.masked_fill(row < row.topk(p.top_k).values[-1], float("-inf"))
    if p.top_p < 1:
        ordered, order = row.sort(descending=True)
        probs = ordered.softmax(-1)
        drop = probs.cumsum(-1) - probs >= p.top_p  # the mass before the token already suffices
        row = row.index_fill(0, order[drop], float("-inf"))
    if p.min_p > 0:
        probs = row.softmax(-1)
        row = row.masked_fill(probs < p.min_p * probs.max(), float("-inf"))
    return row


def _logprob(row: torch.Tensor, token: int, top: int) -> TokenLogprob:
    logprobs = row.log_softmax(-1)
    best = logprobs.topk(min(top, row.shape[-1]))
    pairs = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return TokenLogprob(token, float(logprobs[token]), pairs)
