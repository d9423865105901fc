"""The choice of tokens that run in the next step: continuous batching with chunked prefill and
preemption."""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Protocol

from ..adapters.store.version import AdapterVersion
from ..kv_cache import block_keys
from ..requests.sequence import Sequence
from .batch import ScheduledRow
from .block_allocator import BlockAllocator
from .crowd import Crowd, Running, Turn
from .fairness import PROMPT_COST, FairQueue
from .work import Work

_HEAD_START = 8
"""Steps' worth of tokens that others may be served ahead of a crowd, so that their bursts need not
queue behind it."""

_Place = tuple[float, float]
"""(- priority, tokens served): the smallest goes first."""


class Slots(Protocol):
    """The adapters' slots, as the scheduler sees them (see AdapterStore). None of the calls waits."""

    def want(self, groups: Seq[Seq[AdapterVersion]]) -> set[AdapterVersion]: ...

    def acquire(self, versions: Seq[AdapterVersion]) -> bool: ...

    def release(self, versions: Seq[AdapterVersion]) -> None: ...


class Scheduler:
    """Admits by fairness (FairQueue). What runs keeps its KV and its adapters' slots until it is
    done or preempted.

    Decode rows are served first so that prefill never stalls them; what is left of the token budget
    goes to prefill chunks, the least served adapter's first. Beside decode rows a chunk's work
    counts: late in a long prompt it has fewer tokens, or others' next ones would take several times
    as long (`attention_span`: see Work). A crowd, a tenant (else a caller) of more than half of
    what runs, does not lengthen the steps in which a less served one prefills, and makes way for it
    where places or blocks are all taken. When blocks run out, the youngest running sequence gives
    its blocks back and is recomputed later. A sequence whose adapter has no slot yet is passed
    over, and delays nobody. `max_running_of` gives an adapter's own limit, 0 for none. Not
    thread-safe: the engine thread owns it.
    """

    def __init__(
        self,
        allocator: BlockAllocator,
        slots: Slots,
        *,
        max_running: int,
        max_batch_tokens: int,
        waiting: FairQueue | None = None,
        max_running_of: Callable[[str], int] = lambda tenant: 0,
        attention_span: float = math.inf,
    ) -> None:
        self.allocator = allocator
        self.slots = slots
        self.max_running = max_running
        self.max_batch_tokens = max_batch_tokens
        self.waiting = FairQueue() if waiting is None else waiting
        self.running: list[Sequence] = []
        self.preemptions = 0
        self.considered: Sequence | None = None
        """The one that `schedule` looks at: at fault if that raises."""
        self._max_running_of = max_running_of
        self._running = Running()
        self._beside_decode, self._alone = Work(attention_span), Work()
        self._work = self._alone
        self._wants = False
        self._makes_way_since: float | None = None

    def add(self, sequence: Sequence) -> None:
        self.waiting.add(sequence)

    def schedule(self) -> list[ScheduledRow]:
        """The rows of the next step, their KV blocks allocated; empty when nothing can run."""
        rows: dict[int, ScheduledRow] = {}
        self.considered = None
        preempted = self.preemptions
        self._work = self._alone
        self._run(rows, lambda seq: seq.num_remaining == 1)
        decoding = set(rows)
        if decoding:
            self._work = self._beside_decode
        heads = self.waiting.heads()
        draining = self._want(heads)
        crowd = self._crowd()
        if crowd is not None:
            best = self._last_turn(crowd, heads)
            self._run(rows, lambda seq: not crowd.has(seq) and crowd.place(seq.turn) <= best)
            if self.preemptions == preempted:
                self._admit(rows, draining, crowd, best)
        if crowd is None or rows.keys() <= decoding or self._has_waited_enough():
            self._makes_way_since = None
            self._run(rows, lambda seq: True)
            if self.preemptions == preempted:  # admitting right after a preemption would thrash
                self._admit(rows, draining)
        return list(rows.values())

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and free its blocks and its slots."""
        try:
            if sequence in self.running:
                self._leave(sequence)
            elif sequence in self.waiting:
                self.waiting.remove(sequence)
        finally:
            self._release(sequence)

    def publish_blocks(self, sequence: Sequence) -> None:
        """Offer the sequence's full computed blocks to the prefix cache."""
        full = sequence.num_computed // self.allocator.block_size
        if full > sequence.num_published:
            self._extend_keys(sequence)
            for i in range(sequence.num_published, full):
                self.allocator.publish(sequence.blocks[i], sequence.keys[i])
            sequence.num_published = full

    def _run(self, rows: dict[int, ScheduledRow], chosen: Callable[[Sequence], bool]) -> None:
        """Let the chosen ones of those that run go on, within what is left of the budget."""
        budget = self._budget(rows)
        for seq in sorted(
            (s for s in self.running if id(s) not in rows and not s.awaits_mask and chosen(s)),
            key=self._order,
        ):
            self.considered = seq
            count = self._chunk(seq, budget)
            if count and seq in self.running and self._grow(seq, count, rows):
                rows[id(seq)] = row = ScheduledRow(seq, count)
                budget -= self._cost(row)
        self.considered = None

    def _budget(self, rows: dict[int, ScheduledRow]) -> int:
        return self.max_batch_tokens - sum(map(self._cost, rows.values()))

    def _cost(self, row: ScheduledRow) -> int:
        return 1 if row.count == 1 else self._work.of(row.sequence.num_computed, row.count)

    def _chunk(self, seq: Sequence, budget: int) -> int:
        """Tokens of the sequence that a step computes with what is left of its budget."""
        if seq.num_remaining == 1:
            return min(1, max(0, budget))
        return seq.next_chunk(
            self._work.tokens(seq.num_computed, budget), self.allocator.block_size
        )

    def _order(self, seq: Sequence) -> Turn:
        """Decode first (one token left), the oldest first; then prefill."""
        return (-math.inf, 0, 0) if seq.num_remaining == 1 else self.waiting.turn(seq)

    def _crowd(self) -> Crowd | None:
        """The tenant, else the caller, of more than half of what runs, where others wait or prefill
        beside it."""
        for crowd in self._running.crowds():
            if self.waiting.has_other(crowd):
                return crowd
            if self._running.of(crowd) < len(self.running) and any(
                s.num_remaining > 1 and not crowd.has(s) for s in self.running
            ):
                return crowd
        return None

    def _has_waited_enough(self) -> bool:
        """Whether the crowd has made way without a break for as long as a step of priority takes to
        age."""
        now = self.waiting.clock()
        if self._makes_way_since is None:
            self._makes_way_since = now
        return now - self._makes_way_since >= self.waiting.aging_s

    def _last_turn(self, crowd: Crowd, heads: Seq[Sequence]) -> _Place:
        """The crowd's most urgent request that is not decoding yet, and the head start that others
        have of it."""
        mine = [s for s in (*self.running, *heads) if crowd.has(s) and s.num_remaining > 1]
        return (
            min((self.waiting.turn(s)[0] for s in mine), default=math.inf),
            self.waiting.served_to(crowd) + _HEAD_START * self.max_batch_tokens,
        )

    def _want(self, heads: Seq[Sequence]) -> set[AdapterVersion]:
        """Tell the slots what waits; gives the versions that may take no new sequences now."""
        wanted = [seq.versions for seq in heads if seq.versions]
        if not wanted and not self._wants:
            return set()
        self._wants = bool(wanted)
        try:
            return self.slots.want(wanted)
        except BaseException:
            for seq in heads:  # whose adapters it is that cannot be asked for
                if seq.versions:
                    self.considered = seq
                    self.slots.want([seq.versions])
            self.considered = None
            raise

    def _admit(
        self,
        rows: dict[int, ScheduledRow],
        draining: set[AdapterVersion],
        crowd: Crowd | None = None,
        best: _Place = (math.inf, 0.0),
    ) -> None:
        """Start waiting sequences; of a `crowd` none, and of others those whose turn is not after
        its `best`."""
        passed: set[int] = set()
        heads = self.waiting.heads()
        while self._budget(rows) > 0 and heads:
            is_full = len(self.running) >= self.max_running
            if is_full and crowd is None:
                return
            self.considered = seq = heads.pop(0)
            if id(seq) in passed:
                continue
            if (
                (crowd is not None and self._is_behind(seq, crowd, best))
                or self._is_at_limit(seq.tenant)
                or not draining.isdisjoint(seq.versions)
                or not self._acquire(seq)
            ):
                passed.add(id(seq))
                continue
            try:
                count = 0 if is_full else self._start(seq, self._budget(rows))
                while not count and self._make_way(seq, crowd, rows):
                    count = self._start(seq, self._budget(rows))
            except BaseException:
                if seq not in self.running:  # or `finish` lets go
                    self._let_go(seq)
                raise
            if not count:
                self._let_go(seq)
                return
            rows[id(seq)] = ScheduledRow(seq, count)
            heads = self.waiting.heads()  # its tenant has been served, its lane has another head
        self.considered = None

    def _is_behind(self, seq: Sequence, crowd: Crowd, best: _Place) -> bool:
        """Whether it is the crowd's own, or its turn is after that of the crowd's `best`."""
        return crowd.has(seq) or crowd.place(self.waiting.turn(seq)) > best

    def _make_way(self, seq: Sequence, crowd: Crowd | None, rows: dict[int, ScheduledRow]) -> bool:
        """Preempt the crowd's youngest; False once it is a crowd no more."""
        if crowd is None or self._running.of(crowd) * 2 <= len(self.running):
            return False
        victim = next(s for s in reversed(self.running) if crowd.has(s))
        if victim.priority > self.waiting.aged(seq):
            return False
        self._preempt(victim)
        rows.pop(id(victim), None)
        return True

    def _acquire(self, seq: Sequence) -> bool:
        acquired = not seq.versions or self.slots.acquire(seq.versions)
        if not acquired and seq.missed_at is None:
            seq.missed_at = self.waiting.clock()
        return acquired

    def _start(self, seq: Sequence, budget: int) -> int:
        """Let a waiting sequence run, with so many tokens; 0 if there are no blocks for it."""
        self._match_prefix(seq)
        needed = self._blocks_for(len(seq.tokens)) - len(seq.blocks)
        count = self._chunk(seq, budget)
        # Room for the whole prompt, or it would soon be preempted again.
        if (needed > self.allocator.num_available and self.running) or not self._allocate_for(
            seq, count
        ):
            self._release(seq)
            return 0
        self.waiting.remove(seq)
        self.running.append(seq)
        self._running.count(seq, 1)
        seq.turn = self.waiting.turn(seq)
        if seq.scheduled_at is None:
            seq.scheduled_at = self.waiting.clock()
            seq.cached_tokens = seq.num_computed
            self.waiting.charge(seq.tenant, PROMPT_COST * seq.num_remaining, seq.caller)
        return count

    def _is_at_limit(self, tenant: str) -> bool:
        limit = self._max_running_of(tenant)
        return 0 < limit <= self._running.of_tenant[tenant]

    def _leave(self, seq: Sequence) -> None:
        self.running.remove(seq)
        self._running.count(seq, -1)
        self._let_go(seq)

    def _let_go(self, seq: Sequence) -> None:
        if seq.versions:
            self.slots.release(seq.versions)

    def _match_prefix(self, seq: Sequence) -> None:
        self._extend_keys(seq)
        # At least one token must run, to have logits to sample from.
        usable = seq.keys[: (len(seq.tokens) - 1) // self.allocator.block_size]
        seq.blocks = self.allocator.match(usable)
        seq.num_published = len(seq.blocks)
        seq.num_computed = len(seq.blocks) * self.allocator.block_size

    def _extend_keys(self, seq: Sequence) -> None:
        seq.keys = block_keys(
            seq.kv_version,
            seq.tokens,
            self.allocator.block_size,
            seq.keys,
            seq.base_prefix,
            seq.salt,
        )

    def _grow(self, seq: Sequence, count: int, rows: dict[int, ScheduledRow]) -> bool:
        """Blocks for `count` more tokens, preempting the youngest; False if `seq` had to yield."""
        while not self._allocate_for(seq, count):
            victim = self.running[-1]
            self._preempt(victim)
            rows.pop(id(victim), None)
            if victim is seq:
                return False
        return True

    def _allocate_for(self, seq: Sequence, count: int) -> bool:
        needed = self._blocks_for(seq.num_computed + count) - len(seq.blocks)
        if needed > self.allocator.num_available:
            return False
        for _ in range(needed):
            block = self.allocator.allocate()
            assert block is not None  # num_available was checked
            seq.blocks.append(block)
        return True

    def _preempt(self, seq: Sequence) -> None:
        self.preemptions += 1
        try:
            self._leave(seq)
        except BaseException:
            self.considered = seq
            raise
        finally:  # it is in the queue then, whatever its slots say
            self._release(seq)
            self.waiting.add_first(seq)

    def _release(self, seq: Sequence) -> None:
        # Last block first: the cache then loses the ends of prefixes before their beginnings.
        for block in reversed(seq.blocks):
            self.allocator.release(block)
        seq.blocks = []
        seq.num_computed = seq.num_published = 0

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.allocator.block_size)
