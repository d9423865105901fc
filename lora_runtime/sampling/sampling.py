"""Choosing tokens from logits, each row with its own parameters."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import groupby

import torch

from ..api.answers import TokenLogprob
from ..kernels.host_to_device import upload
from ..kernels.sampling import SampleRow, sample_rows_reference
from ..kernels.token_masks import mask_tokens
from ..requests.sequence import Sequence, TokenCounts
from ..scheduling.batch import StepOutput
from .bias import apply_bias, is_biased
from .penalties import apply_penalties, has_penalties

SampleRows = Callable[[Seq[SampleRow]], list[int]]


@dataclass(frozen=True)
class Sampled:
    """A row's outcome: the token, its logprobs if asked for, or the reason why it has none."""

    token_id: int = -1
    logprob: TokenLogprob | None = None
    error: str | None = None
    is_refused: bool = False
    """Whether the error is the request's: its grammar cannot go on."""


@torch.inference_mode()
def sample(
    output: StepOutput, sequences: Seq[Sequence], sample_rows: SampleRows = sample_rows_reference
) -> list[Sampled]:
    """Choose one token per row of the output, N rows for N sequences.

    Logprobs are those of the model, before biases, penalties, grammars, temperature and filters. A
    row with NaN logits, or whose best one is not finite before or after penalties, fails alone; so
    does one whose grammar has failed, or allows only what may not come for another reason. Waits
    for the device at most three times, however many rows there are: for the best tokens after
    biases, penalties and grammars, for drawn ones, and for logprobs.
    """
    logits, tokens = output.logits, _within(output, sequences)
    refused = {
        i: Sampled(error=seq.grammar.error, is_refused=True)
        for i, seq in enumerate(sequences)
        if seq.grammar is not None and seq.grammar.error
    }
    valid = [i for i, token in enumerate(tokens) if token >= 0 and i not in refused]
    penalised = [i for i in valid if has_penalties(sequences[i].sampling)]
    biased = [
        i for i in valid if is_biased(sequences[i]) and not has_penalties(sequences[i].sampling)
    ]
    masked = _to_be_masked(valid, {*penalised, *biased}, tokens, sequences)
    changed, own_rows = (
        _changed(logits, masked, biased, penalised, sequences),
        masked + biased + penalised,
    )
    if any(sequences[i].sampling.temperature == 0 for i in own_rows):
        for i, token in zip(own_rows, StepOutput.of(changed).greedy, strict=True):
            tokens[i] = token
    own = dict(zip(own_rows, changed, strict=True))
    drawn = [i for i in valid if sequences[i].sampling.temperature > 0]
    rows = [_row(own.get(i, logits[i]), sequences[i]) for i in drawn]
    for i, token in zip(drawn, sample_rows(rows), strict=True):
        tokens[i] = token
    asked = {
        i: top
        for i in valid
        if tokens[i] >= 0 and (top := sequences[i].sampling.logprobs) is not None
    }
    logprobs = _logprobs(logits, asked, tokens)
    for i in valid:
        if tokens[i] < 0 and sequences[i].grammar is not None:  # it had one without its grammar
            refused[i] = Sampled(error=_IN_THE_WAY, is_refused=True)
    return [
        refused.get(i) or (Sampled(token, logprobs.get(i)) if token >= 0 else _FAILED)
        for i, token in enumerate(tokens)
    ]


def _within(output: StepOutput, sequences: Seq[Sequence]) -> list[int]:
    """Each row's argmax, with -inf put at the tokens that the row's adapters, with fewer than the
    base, do not have."""
    tokens = list(output.greedy)
    first = 0
    for most, group in groupby(sequences, key=lambda seq: seq.vocab_limit):
        rows = range(first, first + len(list(group)))
        first = rows.stop
        if most is None:
            continue
        output.logits[rows.start : rows.stop, most:] = -torch.inf
        wrong = [i for i in rows if not 0 <= tokens[i] < most]
        if not wrong:  # mostly
            continue
        for i, token in zip(wrong, StepOutput.of(output.logits[wrong]).greedy, strict=True):
            tokens[i] = token
    return tokens


_IN_THE_WAY = "wants a token that min_tokens, or the adapter's vocabulary, does not let come"
_FAILED = Sampled(error="the model produced NaN or infinite logits")


def _row(logits: torch.Tensor, seq: Sequence) -> SampleRow:
    p = seq.sampling
    # One draw per token from a stream of the sequence's own: neighbours do not change it.
    kept, seq.keeps_draw = seq.keeps_draw, False
    if seq.drawn is None or not kept or seq.drawn[0] != len(seq.tokens):
        seq.drawn = len(seq.tokens), float(torch.rand((), generator=_generator(seq)))
    return SampleRow(logits, p.temperature, p.top_k, p.top_p, p.min_p, seq.drawn[1])


def _generator(seq: Sequence) -> torch.Generator:
    if seq.generator is None:
        seq.generator = torch.Generator()
        if seq.sampling.seed is None:
            seq.generator.seed()
        else:
            seq.generator.manual_seed((seq.sampling.seed + seq.index) % 2**63)
    return seq.generator


def _to_be_masked(
    valid: list[int], changed: set[int], tokens: list[int], sequences: Seq[Sequence]
) -> list[int]:
    """Rows that only a grammar changes: not those whose best token it allows and that take it."""
    return [
        i
        for i in valid
        if i not in changed
        and (grammar := sequences[i].grammar) is not None
        and not (sequences[i].sampling.temperature == 0 and grammar.allows(tokens[i]))
    ]


def _changed(
    logits: torch.Tensor,
    masked: list[int],
    biased: list[int],
    penalised: list[int],
    sequences: Seq[Sequence],
) -> torch.Tensor:
    """A copy of these rows of logits: with biases but for the first, with the penalties of the
    last, and then with the masks of all that have a grammar."""
    rows = masked + biased + penalised
    if not rows:
        return logits[:0]
    changed = logits.index_select(0, upload(torch.tensor(rows), logits.device))
    apply_bias(changed[len(masked) :], [sequences[i] for i in biased + penalised])
    if penalised:
        apply_penalties(
            changed[len(masked) + len(biased) :],
            [_counts(sequences[i]) for i in penalised],
            [sequences[i].sampling for i in penalised],
        )
    grammars = [(row, g) for row, i in enumerate(rows) if (g := sequences[i].grammar) is not None]
    if grammars:
        mask_tokens(changed, [row for row, _ in grammars], [g.mask for _, g in grammars])
    return changed


def _counts(seq: Sequence) -> TokenCounts:
    if seq.counts is None:
        seq.counts = TokenCounts(seq.tokens[: seq.num_prompt])
    seq.counts.update(seq.tokens)
    return seq.counts


def _logprobs(
    logits: torch.Tensor, asked: dict[int, int], tokens: Seq[int]
) -> dict[int, TokenLogprob]:
    """`asked`: how many of the most likely tokens each row wants beside its own."""
    if not asked:
        return {}
    places, chosen = upload(torch.tensor([list(asked), [tokens[i] for i in asked]]), logits.device)
    logprobs = logits.index_select(0, places).log_softmax(-1)
    best = logprobs.topk(min(max(asked.values()), logits.shape[-1]))
    own = logprobs.gather(1, chosen[:, None])
    # One copy for all: float64 holds ids as they are.
    found = torch.cat([own.double(), best.values.double(), best.indices.double()], 1).tolist()
    return {
        i: _token_logprob(tokens[i], row, top)
        for (i, top), row in zip(asked.items(), found, strict=True)
    }


def _token_logprob(token: int, row: Seq[float], top: int) -> TokenLogprob:
    """`row`: the token's own logprob, the best ones, and their ids."""
    values, ids = row[1 : 1 + len(row) // 2], row[1 + len(row) // 2 :]
    return TokenLogprob(token, row[0], tuple(zip(map(int, ids[:top]), values[:top], strict=True)))
