"""One choice of one request while it lives in the engine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from .detokenize import IncrementalDetokenizer, StopMatcher
from .kv_cache import BlockKey
from .types import SamplingParams, Timings, Usage

if TYPE_CHECKING:
    from .adapters.registry import AdapterVersion
    from .handle import RequestHandle


class Sequence:
    """Tokens, KV blocks and sampling state. `tokens[:num_computed]` have their KV in `blocks`."""

    def __init__(
        self, handle: RequestHandle, index: int, prompt: tuple[int, ...], sampling: SamplingParams,
        adapter: AdapterVersion | None, detokenizer: IncrementalDetokenizer, max_tokens: int,
    ) -> None:
        self.handle = handle
        self.index = index
        self.tokens = list(prompt)
        self.num_prompt = len(prompt)
        self.sampling = sampling
        self.adapter = adapter
        self.version = adapter.version if adapter else ""
        self.detokenizer = detokenizer
        self.stops = StopMatcher(sampling.stop)
        self.max_tokens = max_tokens
        self.num_computed = 0
        self.cached_tokens: int | None = None
        self.blocks: list[int] = []
        self.keys: list[BlockKey] = []
        self.num_published = 0
        self.generator: torch.Generator | None = None
        self.arrived = time.monotonic()
        self.scheduled_at: float | None = None
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
