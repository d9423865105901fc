"""One choice of one request while it lives in the engine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..api.requests import SamplingParams, Timings, Usage
from ..kv_cache import BlockKey
from .detokenize import IncrementalDetokenizer, StopMatcher

if TYPE_CHECKING:
    from ..adapters.store.version import AdapterVersion
    from ..sampling.penalties import TokenCounts
    from .handle import RequestHandle


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


class Sequence:
    """Tokens, KV blocks and sampling state. `tokens[:num_computed]` have their KV in `blocks`.

    `tenant`: the adapter id (the first of several, "" for the base) that its tokens are counted for.
    """

    def __init__(
        self, handle: RequestHandle, index: int, prompt: tuple[int, ...], sampling: SamplingParams,
        detokenizer: IncrementalDetokenizer, max_tokens: int, *, adapters: tuple[SequenceAdapter, ...] = (),
        tenant: str = "", priority: int = 0, eos_ids: frozenset[int] = frozenset(),
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
        """Part of the KV blocks' keys: what they depend on beside the tokens. Empty for the base."""
        self.base_prefix = min((a.start for a in adapters), default=0)
        """Tokens whose KV is the base's own: those before an activated LoRA is invoked."""
        self.tenant = tenant
        self.priority = priority
        self.eos_ids = eos_ids
        self.detokenizer = detokenizer
        self.stops = StopMatcher(sampling.stop)
        self.max_tokens = max_tokens
        self.num_computed = 0
        self.cached_tokens: int | None = None
        self.blocks: list[int] = []
        self.keys: list[BlockKey] = []
        self.num_published = 0
        self.generator: torch.Generator | None = None
        self.counts: TokenCounts | None = None
        """The sampler's, if there are penalties."""
        self.turn = (0.0, 0.0)
        """The scheduler's: where it stood among others when it was let in."""
        self.arrived = time.monotonic() if arrived is None else arrived
        self.scheduled_at: float | None = None
        self.missed_at: float | None = None
        """When it could have run first but for its adapter."""
        self.first_token_at: float | None = None
        self.last_token_at: float | None = None
        self.token_gaps: list[float] = []
        self.finished = False

    @property
    def num_remaining(self) -> int:
        """Tokens whose KV is not computed yet: 1 in decode, more in prefill or after preemption."""
        return len(self.tokens) - self.num_computed

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - self.num_prompt

    def mark_token(self, now: float) -> None:
        """Keep the times that TTFT and ITL are made of."""
        if self.last_token_at is None:
            self.first_token_at = now
        else:
            self.token_gaps.append(now - self.last_token_at)
        self.last_token_at = now

    def usage(self) -> Usage:
        return Usage(self.num_prompt, self.cached_tokens or 0, self.num_generated)

    def timings(self) -> Timings:
        start = self.scheduled_at or self.arrived
        first = self.first_token_at or start
        return Timings(start - self.arrived, first - start, (self.last_token_at or first) - first)
