"""Which tokens run in the next step: continuous batching with chunked prefill and preemption."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from .kv_cache import BlockAllocator, block_keys
from .sequence import Sequence


@dataclass(frozen=True)
class ScheduledRow:
    """`count` tokens of `sequence` from `sequence.num_computed` on run in this step."""

    sequence: Sequence
    count: int


class Scheduler:
    """First come, first served. Running sequences keep their KV until done or preempted.

    Decode rows are served first so that prefill never stalls them; what is left of the token
    budget goes to prefill chunks, oldest first. When blocks run out, the youngest running sequence
    gives its blocks back and is recomputed later. Not thread-safe: the engine thread owns it.
    """

    def __init__(self, allocator: BlockAllocator, *, max_running: int, max_batch_tokens: int) -> None:
        self.allocator = allocator
        self.max_running = max_running
        self.max_batch_tokens = max_batch_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def schedule(self) -> list[ScheduledRow]:
        """The rows of the next step, their KV blocks allocated; empty when there is no work."""
        budget = self.max_batch_tokens
        rows: dict[int, ScheduledRow] = {}
        preempted = self.preemptions
        # Decode first (one token left), then prefill; both oldest first.
        for seq in sorted(self.running, key=lambda s: s.num_remaining > 1):
            count = min(seq.num_remaining, budget)
            if count and seq in self.running and self._grow(seq, count, rows):
                rows[id(seq)] = ScheduledRow(seq, count)
                budget -= count
        if self.preemptions == preempted:  # admitting right after a preemption would thrash
            self._admit(budget, rows)
        return list(rows.values())

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and free its blocks."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self._release(sequence)

    def publish_blocks(self, sequence: Sequence) -> None:
        """Offer the sequence's full computed blocks to the prefix cache."""
        full = sequence.num_computed // self.allocator.block_size
        if full > sequence.num_published:
            self._extend_keys(sequence)
            for i in range(sequence.num_published, full):
                self.allocator.publish(sequence.blocks[i], sequence.keys[i])
            sequence.num_published = full

    def _admit(self, budget: int, rows: dict[int, ScheduledRow]) -> None:
        while self.waiting and budget and len(self.running) < self.max_running:
            seq = self.waiting[0]
            self._match_prefix(seq)
            needed = self._blocks_for(len(seq.tokens)) - len(seq.blocks)
            # Room for the whole prompt, or it would soon be preempted again.
            if needed > self.allocator.num_available and self.running:
                self._release(seq)
                return
            count = min(seq.num_remaining, budget)
            if not self._allocate_for(seq, count):
                self._release(seq)
                return
            self.waiting.popleft()
            self.running.append(seq)
            seq.scheduled_at = seq.scheduled_at or time.monotonic()
            if seq.cached_tokens is None:
                seq.cached_tokens = seq.num_computed
            rows[id(seq)] = ScheduledRow(seq, count)
            budget -= count

    def _match_prefix(self, seq: Sequence) -> None:
        self._extend_keys(seq)
        # At least one token must run, to have logits to sample from.
        usable = seq.keys[: (len(seq.tokens) - 1) // self.allocator.block_size]
        seq.blocks = self.allocator.match(usable)
        seq.num_published = len(seq.blocks)
        seq.num_computed = len(seq.blocks) * self.allocator.block_size

    def _extend_keys(self, seq: Sequence) -> None:
        seq.keys = block_keys(seq.version, seq.tokens, self.allocator.block_size, seq.keys)

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
        self.running.remove(seq)
        self._release(seq)
        self.waiting.appendleft(seq)
        self.preemptions += 1

    def _release(self, seq: Sequence) -> None:
        # Last block first: the cache then loses the ends of prefixes before their beginnings.
        for block in reversed(seq.blocks):
            self.allocator.release(block)
        seq.blocks = []
        seq.num_computed = seq.num_published = 0

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.allocator.block_size)
