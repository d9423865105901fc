"""Turns a sampled token into the request's events, and decides when a sequence is done."""

from __future__ import annotations

import time

from ..api.requests import FinishReason, TokenEvent
from ..requests.sequence import Sequence
from .sampling import Sampled


def accept_token(seq: Sequence, sampled: Sampled) -> TokenEvent:
    """Append the token and give the event to deliver; `finish_reason` set ends the sequence.

    The token that ends a sequence (EOS or a stop token) counts and is reported, but gives no text.
    """
    token = sampled.token_id
    seq.tokens.append(token)
    seq.mark_token(time.monotonic())
    reason = _token_reason(seq, token)
    text, stopped = seq.stops.push("" if reason else seq.detokenizer.push(token))
    if stopped:
        reason = FinishReason.STOP
    elif reason is None and (seq.num_generated >= seq.max_tokens):
        reason = FinishReason.LENGTH
    if reason and not stopped:
        tail, stopped = seq.stops.push(seq.detokenizer.flush())
        text += tail
        if stopped:
            reason = FinishReason.STOP
        else:
            text += seq.stops.flush()
    return TokenEvent(
        index=seq.index,
        text=text,
        token_ids=(token,),
        logprobs=(sampled.logprob,) if sampled.logprob else (),
        finish_reason=reason,
        usage=seq.usage() if reason else None,
        timings=seq.timings() if reason else None,
    )


def _token_reason(seq: Sequence, token: int) -> FinishReason | None:
    if token in seq.stop_ids:
        return FinishReason.STOP
    if token in seq.eos_ids and not seq.sampling.ignore_eos:
        return FinishReason.EOS
    return None
