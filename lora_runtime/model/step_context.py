"""Context of a step, which the swapped-in functions read while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..kernels import Kernels
from ..kernels.attention import AttentionPlan
from ..kernels.updates import UpdateSegment
from ..kv_cache import KVCache


@dataclass(frozen=True)
class AttentionCall:
    """Arguments of a layer's call of the attention interface; `window`, `softcap` as in the kernel."""

    heads: int
    kv_heads: int
    dim: int
    dim_v: int
    scaling: float
    window: int | None
    softcap: float | None


@dataclass
class StepContext:
    """State shared by attention and hooks of one base; set by the runner around each forward.

    `updates` maps a module's name to its segments; a module that no row's adapter changes is
    absent. While `plan` is None the attention runs plainly causal and records how it is called: the
    dry run at load, of `dry_rows` rows.
    """

    kernels: Kernels
    cache: KVCache | None = None
    plan: AttentionPlan | None = None
    updates: Mapping[str, Sequence[UpdateSegment]] = field(default_factory=dict)
    calls: dict[int, AttentionCall] = field(default_factory=dict)
    dry_rows: int = 0
    alone: bool = False
    """True in forwards without a plan whose rows attend to themselves only: each then depends on
    its own token alone."""
    row_dims: Mapping[str, int] = field(default_factory=dict)
    """By norm, the dimension of its input along which the rows lie."""

    @contextmanager
    def during(
        self, cache: KVCache, plan: AttentionPlan, updates: Mapping[str, Sequence[UpdateSegment]]
    ) -> Iterator[None]:
        """Set a step's inputs, and drop them after it so that no freed adapter stays reachable."""
        self.cache, self.plan, self.updates = cache, plan, updates
        try:
            yield
        finally:
            self.cache, self.plan, self.updates = None, None, {}
