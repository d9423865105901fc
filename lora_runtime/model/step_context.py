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
    """A call of the attention interface, by the module at `path`; `window`, `softcap` as in the
    kernel."""

    path: str
    heads: int
    kv_heads: int
    dim: int
    dim_v: int
    scaling: float
    window: int | None
    softcap: float | None
    sinks: bool
    """Whether scores without values take a share of each row's softmax."""


Turn = tuple[int, int]
"""A call of attention in a forward: its layer, and how many that layer has made before."""


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
    calls: dict[Turn, AttentionCall] = field(default_factory=dict)
    places: Mapping[Turn, int] = field(default_factory=dict)
    """By call, the place of its keys and values in the cache."""
    dry_rows: int = 0
    alone: bool = False
    """True in forwards without a plan whose rows attend to themselves only: each then depends on
    its own token alone."""
    row_dims: Mapping[str, int] = field(default_factory=dict)
    """By norm, the dimension of its input along which the rows lie."""
    _turns: dict[int, int] = field(default_factory=dict)

    def turn(self, layer: int) -> Turn:
        """The call that this layer now makes."""
        before = self._turns.get(layer, 0)
        self._turns[layer] = before + 1
        return layer, before

    def begin(self) -> None:
        """Begin a forward: no layer has called attention in it."""
        self._turns.clear()

    @contextmanager
    def during(
        self, cache: KVCache, plan: AttentionPlan, updates: Mapping[str, Sequence[UpdateSegment]]
    ) -> Iterator[None]:
        """Set a step's inputs, and drop them after it so that no freed adapter stays reachable."""
        self.begin()
        self.cache, self.plan, self.updates = cache, plan, updates
        try:
            yield
        finally:
            self.cache, self.plan, self.updates = None, None, {}
