"""Turns a sampled token into the request's events, and decides when a sequence is done."""

from __future__ import annotations

import time

from ..api.answers import FinishReason, TokenEvent
from ..requests.sequence import Sequence
from .sampling import Sampled


def accept_token(seq: Sequence, sampled: Sampled) -> TokenEvent:
    """Append the token and give the event to deliver; `finish_reason` set ends the sequence.

    The token that ends a sequence (EOS or a stop token) counts and is reported, but gives no text,
    whether or not special tokens are shown; it may complete a stop string.
    """
    token = sampled.token_id
    seq.tokens.append(token)
    seq.mark_token(time.monotonic())
    reason = _token_reason(seq, token)
    if reason:
        text, stopped = seq.text.end(token, reason is FinishReason.EOS)
    else:
        text, stopped = seq.text.push(token)
        if not stopped and seq.num_generated >= seq.max_tokens:
            reason = FinishReason.LENGTH
            tail, stopped = seq.text.end()
            text += tail
    stopped_by: str | int | None = token if reason is FinishReason.STOP else None
    if stopped:
        reason, stopped_by = FinishReason.STOP, seq.text.stops.found
    seq.finish_reason = reason
    return TokenEvent(
        index=seq.index,
        text=text,
        token_ids=(token,),
        logprobs=(sampled.logprob,) if sampled.logprob else (),
        finish_reason=reason,
        usage=seq.usage() if reason else None,
        timings=seq.timings() if reason else None,
        stopped_by=stopped_by,
    )


def _token_reason(seq: Sequence, token: int) -> FinishReason | None:
    if token in seq.stop_ids:
        return FinishReason.STOP
    # A grammar that may go on lets no ignored one through.
    if token in seq.eos_ids and (not seq.sampling.ignore_eos or seq.grammar is not None):
        return FinishReason.EOS
    return None
