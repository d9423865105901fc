"""One server: the project's own scheduler, queue and slots; steps take what the costs say."""

from __future__ import annotations

import random
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import partial
from typing import Any

from lora_runtime import EngineConfig, SamplingParams
from lora_runtime.requests.sequence import Sequence, SequenceAdapter
from lora_runtime.scheduling.batch import ScheduledRow
from lora_runtime.scheduling.block_allocator import BlockAllocator
from lora_runtime.scheduling.fairness import OUTPUT_COST, FairQueue
from lora_runtime.scheduling.scheduler import Scheduler

from .costs import Costs
from .events import Events
from .host import Host, Lock, Thread
from .store import Store

_NICE = 0.11
"""Weight of loads beside steps: their threads step back as far as the system lets them."""
_NOBODY: Any = None
_GREEDY = SamplingParams()


@dataclass(eq=False)
class Asked:
    """A request, and who hears of its tokens."""

    adapter: str
    prompt_tokens: int
    output_tokens: int
    on_token: Callable[[Asked, bool], object]
    """Called for each token, with whether it is the last."""
    on_lost: Callable[[], object]
    """Called where its replica is lost."""


@dataclass(frozen=True)
class Sizes:
    """What a server is configured with, and what an adapter takes."""

    config: EngineConfig
    kv_blocks: int = 4096
    adapter_bytes: int = 1


class Replica:
    """A server on a host."""

    def __init__(
        self,
        events: Events,
        host: Host,
        costs: Costs,
        sizes: Sizes,
        rng: random.Random,
        on_loaded: Callable[[], object],
    ) -> None:
        """`on_loaded`: hears of each adapter that is in."""
        self._events, self._host, self._costs, self._rng = events, host, costs, rng
        self._lock = Lock()
        self._front = Thread(host, costs.front.wake, self._lock)
        config = sizes.config
        self.most = config.max_running + config.max_waiting
        self.under_way: set[Asked] = set()
        self.work: dict[str, float] = {}
        self.loads = 0
        """Adapters that were loaded since it began."""
        """Tokens computed by adapter."""
        self._on_loaded = on_loaded
        self.store = Store(config, sizes.adapter_bytes, self._load, self._loaded)
        self._scheduler = Scheduler(
            BlockAllocator(sizes.kv_blocks, config.kv_block_size, prefix_caching=False),
            self.store.slots,
            max_running=config.max_running,
            max_batch_tokens=config.max_batch_tokens,
            waiting=FairQueue(aging_s=config.priority_aging_s, clock=events.clock),
            attention_span=costs.attention_span,
        )
        self._asked: dict[Sequence, Asked] = {}
        self._mail: list[Asked] = []
        self._is_stepping = False
        self.is_gone = False

    def submit(self, asked: Asked) -> bool:
        """Take a request; False where the queue is full."""
        if len(self.under_way) >= self.most:
            return False
        self.under_way.add(asked)
        self._front.start(self._costs.front.call, lambda: self._arrive(asked))
        return True

    def stop(self) -> Seq[Asked]:
        """End at once. Gives the requests that were not through."""
        self.is_gone = True
        return sorted(self.under_way, key=lambda asked: asked.adapter)

    def _arrive(self, asked: Asked) -> None:
        self._mail.append(asked)
        self._wake()

    def _wake(self) -> None:
        if not self._is_stepping and not self.is_gone:
            self._step()

    def _loaded(self) -> None:
        self.loads += 1
        self._on_loaded()
        self._wake()

    def _load(self, done: Callable[[], object]) -> None:
        self._host.start(self._costs.of_load(self._rng), done, weight=_NICE, lock=self._lock)

    def _step(self) -> None:
        """Take in what has come, and begin a step if anything can run."""
        mail, self._mail = self._mail, []
        for asked in mail:
            self._enter(asked)
        rows = self._scheduler.schedule()
        self._is_stepping = bool(rows)
        if rows:
            locked_s, free_s = self._seconds(rows)
            computed = partial(self._host.start, free_s, lambda: self._end(rows))
            self._host.start(locked_s, computed, lock=self._lock)

    def _enter(self, asked: Asked) -> None:
        version = self.store.lease(asked.adapter)
        seq = Sequence(
            _NOBODY,
            0,
            (0,) * asked.prompt_tokens,
            _GREEDY,
            _NOBODY,
            asked.output_tokens,
            adapters=(SequenceAdapter(version),),
            tenant=asked.adapter,
            arrived=self._events.now,
        )
        self._asked[seq] = asked
        self._scheduler.add(seq)

    def _seconds(self, rows: Seq[ScheduledRow]) -> tuple[float, float]:
        """Seconds of a step that need the interpreter's lock, and those that do not."""
        decode = sum(row.count == 1 for row in rows)
        prefill = sum(row.count for row in rows if row.count > 1)
        adapters = len({version for row in rows for version in row.sequence.versions})
        whole = self._costs.steps.of(decode, prefill, adapters)
        locked = min(whole, self._costs.interpreted.of(decode, prefill, adapters))
        return locked, whole - locked

    def _end(self, rows: Seq[ScheduledRow]) -> None:
        if self.is_gone:
            return
        sampled = []
        for row in rows:
            seq = row.sequence
            seq.num_computed += row.count
            self._scheduler.publish_blocks(seq)
            if not seq.num_remaining:
                sampled.append(self._sample(seq))
        if sampled:
            self._front.start(self._costs.front.token * len(sampled), lambda: self._tell(sampled))
        self._step()

    def _sample(self, seq: Sequence) -> tuple[Asked, bool]:
        """Add a token. Gives whose it is, and whether it is the last."""
        seq.tokens.append(0)
        self._scheduler.waiting.charge(seq.tenant, OUTPUT_COST, seq.caller)
        asked, is_last = self._asked[seq], seq.num_generated >= seq.max_tokens
        if is_last:
            seq.finished = True
            self._scheduler.finish(seq)
            self.store.release(seq.versions[0])
            del self._asked[seq]
            tokens = asked.prompt_tokens + asked.output_tokens
            self.work[asked.adapter] = self.work.get(asked.adapter, 0.0) + tokens
        return asked, is_last

    def _tell(self, sampled: Seq[tuple[Asked, bool]]) -> None:
        """Let callers hear of a step's tokens."""
        for asked, is_last in sampled:
            if self.is_gone:
                return
            if is_last:
                self.under_way.discard(asked)
            asked.on_token(asked, is_last)
