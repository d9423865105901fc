"""A request while it lives in the engine: its choices, each a sequence of tokens, and its record
when it ends."""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch

from ..adapters.store.version import AdapterVersion
from ..api.answers import FinishReason, Timings, Usage
from ..api.reports import RequestRecord
from ..api.requests import SamplingParams
from ..grammars.row import RowGrammar
from ..kv_cache import BlockKey
from .handle import RequestHandle
from .text.answer_text import AnswerText
from .text.detokenize import IncrementalDetokenizer
from .token_bias import TokenBias


@dataclass(frozen=True)
class SequenceAdapter:
    """A version that a sequence runs with, its weight, and the first position that it works on."""

    version: AdapterVersion
    weight: float = 1.0
    start: int = 0

    @property
    def key(self) -> str:
        """What the KV behind `start` depends on."""
        weight = "" if self.weight == 1 else f"*{self.weight!r}"
        return f"{self.version.version}{weight}" + (f"@{self.start}" if self.start else "")


class TokenCounts:
    """A sequence's distinct tokens in `ids`, and in `counts` how often each was generated; 0: in
    the prompt only.

    Kept from step to step, since contexts are long and a step adds a token.
    """

    def __init__(self, prompt: Seq[int]) -> None:
        self.ids = array("i", dict.fromkeys(prompt))
        self.counts = array("i", bytes(self.ids.itemsize * len(self.ids)))
        self._places = {token: place for place, token in enumerate(self.ids)}
        self._seen = len(prompt)

    def update(self, tokens: Seq[int]) -> None:
        """`tokens`: the whole sequence, which only grows."""
        for token in tokens[self._seen :]:
            if (place := self._places.setdefault(token, len(self.ids))) == len(self.ids):
                self.ids.append(token)
                self.counts.append(0)
            self.counts[place] += 1
        self._seen = len(tokens)


class Sequence:
    """Tokens, KV blocks and sampling state. `tokens[:num_computed]` have their KV in `blocks`.

    `tenant`: the adapter id (the first of several, "" for the base) that its tokens are counted
    for; `caller`: who asked, and shares the tenant's turns with its other callers. `salt`: the
    beginning of its KV blocks' keys, see prefix_salt.
    """

    def __init__(
        self,
        handle: RequestHandle,
        index: int,
        prompt: tuple[int, ...],
        sampling: SamplingParams,
        detokenizer: IncrementalDetokenizer,
        max_tokens: int,
        *,
        adapters: tuple[SequenceAdapter, ...] = (),
        tenant: str = "",
        caller: str = "",
        salt: bytes = b"",
        priority: int = 0,
        eos_ids: frozenset[int] = frozenset(),
        stop_ids: frozenset[int] = frozenset(),
        vocab_limit: int | None = None,
        bias: TokenBias | None = None,
        grammar: RowGrammar | None = None,
        arrived: float | None = None,
    ) -> None:
        self.handle = handle
        self.index = index
        self.tokens = list(prompt)
        self.num_prompt = len(prompt)
        self.sampling = sampling
        self.adapters = adapters
        self.versions = [a.version for a in adapters]
        self.kv_version = "+".join(a.key for a in adapters)
        """Part of the KV blocks' keys: what they depend on beside the tokens. Empty for the base.
        """
        self.base_prefix = min((a.start for a in adapters), default=0)
        """Tokens whose KV is the base's own: those before an activated LoRA is invoked."""
        self.tenant = tenant
        self.caller = caller
        self.salt = salt
        self.priority = priority
        self.eos_ids, self.stop_ids = eos_ids, stop_ids
        self.vocab_limit = vocab_limit
        """The ids below it are sampled, where its adapters have fewer tokens than the base; else
        None."""
        self.bias = bias
        """What is added to its logits; None where the request asks for nothing of the kind."""
        self.grammar = grammar
        """What its text is held to; None where the request asks for nothing of the kind."""
        self.text = AnswerText(detokenizer, sampling.stop, sampling.min_tokens)
        self.max_tokens = max_tokens
        self.num_computed = 0
        self.cached_tokens: int | None = None
        self.blocks: list[int] = []
        self.keys: list[BlockKey] = []
        self.num_published = 0
        self.generator: torch.Generator | None = None
        self.drawn: tuple[int, float] | None = None
        """The sampler's: how many tokens there were when it drew last, and the draw."""
        self.keeps_draw = False
        """Whether it is sampled again: a draw for the same token is taken as it is."""
        self.counts: TokenCounts | None = None
        """The sampler's, if there are penalties."""
        self.turn = (0.0, 0.0, 0.0)
        """The scheduler's: where it stood among others when it was let in."""
        self.arrived = time.monotonic() if arrived is None else arrived
        self.scheduled_at: float | None = None
        self.missed_at: float | None = None
        """The moment when it could have run first but for its adapter."""
        self.first_token_at: float | None = None
        self.last_token_at: float | None = None
        self._gap: float | None = None
        self._ttft: float | None = None
        self.finished = False
        self.finish_reason: FinishReason | None = None

    @property
    def num_remaining(self) -> int:
        """Tokens whose KV is not computed yet: 1 in decode, more in prefill or after preemption."""
        return len(self.tokens) - self.num_computed

    @property
    def awaits_mask(self) -> bool:
        """Whether a step went by without its grammar's mask, which is still not there."""
        return self.grammar is not None and self.grammar.is_late

    def next_chunk(self, most: int, block_size: int) -> int:
        """Tokens that the next step may take, of at most `most`.

        Blocks that everybody may find are computed in steps of their own, without a row of this
        sequence that an adapter works on: whatever those hold, it does not reach them.
        """
        shared = self.base_prefix // block_size * block_size - self.num_computed
        return min(self.num_remaining, most, shared if shared > 0 else most)

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - self.num_prompt

    def mark_token(self, now: float) -> None:
        """Keep the times that TTFT and ITL are made of."""
        if self.last_token_at is None:
            self.first_token_at, self._ttft = now, now - self.arrived
        else:
            self._gap = now - self.last_token_at
        self.last_token_at = now

    def take_gap(self) -> float | None:
        """Seconds between the last token and the one before it; None if that was given already, or
        if the sequence is not its request's first choice."""
        gap, self._gap = self._gap, None
        return None if self.index else gap

    def take_ttft(self) -> float | None:
        """Seconds from arrival to first token; None as for `take_gap`."""
        ttft, self._ttft = self._ttft, None
        return None if self.index else ttft

    def usage(self) -> Usage:
        return Usage(self.num_prompt, self.cached_tokens or 0, self.num_generated)

    def timings(self) -> Timings:
        start = self.scheduled_at or self.arrived
        first = self.first_token_at or start
        return Timings(start - self.arrived, first - start, (self.last_token_at or first) - first)


@dataclass
class LiveRequest:
    """All choices of one request and the leases they share."""

    handle: RequestHandle
    versions: list[AdapterVersion]
    sequences: list[Sequence]

    @property
    def adapter_ids(self) -> list[str]:
        """Adapters against whose limits it counts; "" is the base."""
        return [use.adapter_id for use in self.handle.adapters] or [""]

    @property
    def grammars(self) -> list[RowGrammar]:
        """Those of its choices, if its answers are to have a form."""
        return [s.grammar for s in self.sequences if s.grammar is not None]

    @property
    def waits(self) -> bool:
        """Whether no choice runs now: none has yet, or those that did were preempted."""
        return not any(s.blocks for s in self.sequences)

    @property
    def deadline(self) -> float | None:
        """Seconds on the monotonic clock; None where the request sets none."""
        timeout = self.handle.request.timeout_s
        return None if timeout is None else self.sequences[0].arrived + timeout

    def record(self, outcome: str) -> RequestRecord:
        first, now = self.sequences[0], time.monotonic()
        return RequestRecord(
            request_id=self.handle.request_id,
            adapter_id=self.handle.request.adapter_id,
            adapter_version=self.handle.adapter_version,
            outcome=outcome,
            prompt_tokens=first.num_prompt,
            cached_tokens=first.cached_tokens or 0,
            completion_tokens=sum(s.num_generated for s in self.sequences),
            queue_s=(first.scheduled_at or now) - first.arrived,
            ttft_s=None if first.first_token_at is None else first.first_token_at - first.arrived,
            e2e_s=now - first.arrived,
            adapters=self.handle.adapters,
            choice_tokens=tuple(s.num_generated for s in self.sequences),
            adapter_wait_s=0.0
            if first.missed_at is None
            else (first.scheduled_at or now) - first.missed_at,
            decode_s=0.0 if first.first_token_at is None else first.timings().decode_s,
            finish_reasons=tuple(r for s in self.sequences if (r := s.finish_reason) is not None),
        )
