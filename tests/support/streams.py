"""A device whose work is only done when a test says so: streams, events and memory as CUDA's, in
host memory."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

import torch

from lora_runtime.backends.streams import Event

POISON = 0xFF
"""Every float of these bytes is NaN."""


class DeferredEvent:
    def __init__(self) -> None:
        self.reached = False

    def query(self) -> bool:
        return self.reached


class DeferredStream:
    """Work in order; each entry says whether it could be done."""

    def __init__(self) -> None:
        self.work: deque[Callable[[], bool]] = deque()

    def enqueue(self, work: Callable[[], object]) -> None:
        self.work.append(lambda: (work(), True)[1])

    def record_event(self) -> DeferredEvent:
        event = DeferredEvent()
        self.enqueue(lambda: setattr(event, "reached", True))
        return event

    def wait_event(self, event: Event) -> None:
        self.work.append(event.query)

    def advance(self) -> bool:
        """Do the next entry, if there is one and it waits for nothing."""
        if not self.work or not self.work[0]():
            return False
        self.work.popleft()
        return True

    def run(self) -> None:
        while self.advance():
            pass


class DeferredCopies:
    """A CopyStream. Memory is handed out again as soon as it is released, newest first, and
    poisoned meanwhile."""

    pinned = False

    def __init__(self, capacity: int = 1 << 30) -> None:
        self.device = torch.device("cpu")
        self.side, self.step = DeferredStream(), DeferredStream()
        self.free = capacity
        self.released: list[torch.Tensor] = []

    def current(self) -> DeferredStream:
        return self.step

    def allocate(self, num_bytes: int) -> torch.Tensor:
        if num_bytes > self.free:
            raise torch.OutOfMemoryError(f"{num_bytes} bytes of {self.free}")
        self.free -= num_bytes
        for i, buffer in reversed(list(enumerate(self.released))):
            if buffer.nbytes >= num_bytes:
                return self.released.pop(i)[:num_bytes]
        return torch.full((num_bytes,), POISON, dtype=torch.uint8)

    def release(self, buffer: torch.Tensor) -> None:
        buffer.fill_(POISON)
        self.free += buffer.nbytes
        self.released.append(buffer)

    def copy(self, to: torch.Tensor, source: torch.Tensor) -> None:
        self.side.enqueue(lambda: to.copy_(source))

    def record_event(self) -> DeferredEvent:
        return self.side.record_event()

    def write(self, to: torch.Tensor, source: torch.Tensor) -> None:
        snapshot = source.clone()  # as pinning it does
        self.step.enqueue(lambda: to.copy_(snapshot))

    def run(self) -> None:
        """Until nothing is left, whatever waits for whom."""
        while self.side.advance() or self.step.advance():
            pass
        assert not self.side.work, "the copies wait for something that never comes"
        assert not self.step.work, "the steps wait for something that never comes"

    def run_some(self, chance: random.Random) -> None:
        """A random part of the work, in an order that the device might choose."""
        for _ in range(chance.randrange(12)):
            chance.choice((self.side, self.step)).advance()
