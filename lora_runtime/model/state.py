"""What the swapped-in modules read during a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..kernels import Kernels
from ..kernels.attention import AttentionPlan
from ..kernels.lora import LoraSegment
from ..kv_cache import KVCache


@dataclass(frozen=True)
class AttentionCall:
    """What a layer passes to the attention interface; `window` and `softcap` as in the kernel."""

    heads: int
    kv_heads: int
    dim: int
    dim_v: int
    scaling: float
    window: int | None
    softcap: float | None


@dataclass
class StepState:
    """Shared by all swapped-in modules of one base; set by the runner around each forward.

    `lora` maps a module's name to its segments; a module that no row's adapter targets is absent.
    While `plan` is None the attention runs plainly causal and records how it is called: the dry run
    at load.
    """

    kernels: Kernels
    cache: KVCache | None = None
    plan: AttentionPlan | None = None
    lora: Mapping[str, Sequence[LoraSegment]] = field(default_factory=dict)
    calls: dict[int, AttentionCall] = field(default_factory=dict)

    @contextmanager
    def during(
        self, cache: KVCache, plan: AttentionPlan, lora: Mapping[str, Sequence[LoraSegment]]
    ) -> Iterator[None]:
        """Set a step's inputs, and drop them after it so that no freed adapter stays reachable."""
        self.cache, self.plan, self.lora = cache, plan, lora
        try:
            yield
        finally:
            self.cache, self.plan, self.lora = None, None, {}
