"""Streams of work on the device beside the steps; on a CPU, one thing after the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, cast

import torch


class Event(Protocol):
    """A point in a stream's work, as torch.cuda.Event."""

    def query(self) -> bool:
        """True once the point was reached. Never waits."""


class Stream(Protocol):
    """Work that the device does in order, as torch.cuda.Stream. For any thread."""

    def record_event(self) -> Event:
        """Mark the end of the work given to the stream so far."""

    def wait_event(self, event: Event) -> None:
        """Let work that is given from now on start after the event; the host does not wait."""


class CopyStream(Protocol):
    """A stream for copies, and the memory they go to.

    For any thread; no call waits for the device.
    """

    device: torch.device
    pinned: bool
    """True if host memory that is copied from should be pinned."""

    def current(self) -> Stream:
        """The stream that the calling thread gives its work to."""

    def allocate(self, num_bytes: int) -> torch.Tensor:
        """Allocate memory on the device: (num_bytes,) uint8. Raises torch.OutOfMemoryError."""

    def release(self, buffer: torch.Tensor) -> None:
        """Release what `allocate` gave: nothing on the device may read it any more."""

    def copy(self, to: torch.Tensor, source: torch.Tensor) -> None:
        """Copy from pinned memory, on the copy stream."""

    def record_event(self) -> Event:
        """Mark the end of the copies so far."""

    def write(self, to: torch.Tensor, source: torch.Tensor) -> None:
        """Write on the calling thread's stream; `source` may be changed once this returns."""


class CudaCopyStream:
    """Copy stream of CUDA, one of its own.

    Memory that it allocates belongs to that stream: so a buffer's first copy may follow its
    allocation at once, and whoever reads it elsewhere must wait, and be done before it is released.
    """

    pinned = True

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)

    def current(self) -> Stream:
        return cast(Stream, torch.cuda.current_stream(self.device))

    def allocate(self, num_bytes: int) -> torch.Tensor:
        with torch.cuda.stream(self._stream):
            return torch.empty(num_bytes, dtype=torch.uint8, device=self.device)

    def release(self, buffer: torch.Tensor) -> None:
        """Do nothing: torch's allocator has the memory back with the last reference."""

    def copy(self, to: torch.Tensor, source: torch.Tensor) -> None:
        # The allocator of pinned memory keeps the source, even if it is dropped, until the copy was
        # made.
        with torch.cuda.stream(self._stream):
            to.copy_(source, non_blocking=True)

    def record_event(self) -> Event:
        return self._stream.record_event()

    def write(self, to: torch.Tensor, source: torch.Tensor) -> None:
        to.copy_(source.pin_memory(), non_blocking=True)


class HostCopyStream:
    """Copy stream of a base on the CPU: all is done when a call returns."""

    pinned = False

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def current(self) -> Stream:
        return _Done()

    def allocate(self, num_bytes: int) -> torch.Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, device=self.device)

    def release(self, buffer: torch.Tensor) -> None:
        """Do nothing: the memory goes with the last reference."""

    def copy(self, to: torch.Tensor, source: torch.Tensor) -> None:
        to.copy_(source)

    def record_event(self) -> Event:
        return _Done()

    def write(self, to: torch.Tensor, source: torch.Tensor) -> None:
        to.copy_(source)


class _Done:
    """A stream without work, and each of its events."""

    def query(self) -> bool:
        return True

    def record_event(self) -> Event:
        return self

    def wait_event(self, event: Event) -> None:
        """Do nothing: the work is done already."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Done)

    def __hash__(self) -> int:
        return 0


def copy_stream(device: torch.device) -> CopyStream:
    return CudaCopyStream(device) if device.type == "cuda" else HostCopyStream(device)


class WorkStreams(Protocol):
    """Streams of the threads that load adapters, so that they and the steps do not wait for each
    other."""

    def own(self) -> AbstractContextManager[object]:
        """Enter a stream of the calling thread's own.

        What the work gives must be on the host before the end.
        """


class CudaWorkStreams:
    """Work streams of CUDA: one for each thread that asks."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._local = device, threading.local()

    def own(self) -> AbstractContextManager[object]:
        if not hasattr(self._local, "stream"):
            stream = torch.cuda.Stream(self._device)
            # The base's weights came on the default stream.
            stream.wait_stream(torch.cuda.default_stream(self._device))
            self._local.stream = stream
        return torch.cuda.stream(self._local.stream)


class HostWorkStreams:
    """Work streams of a CPU: each thread computes by itself."""

    def own(self) -> AbstractContextManager[object]:
        return nullcontext()


def work_streams(device: torch.device) -> WorkStreams:
    return CudaWorkStreams(device) if device.type == "cuda" else HostWorkStreams()


class Side(Protocol):
    """A second stream of work beside the step's own."""

    def fork(self) -> AbstractContextManager[None]:
        """Enter the second stream: work enqueued inside starts after what was enqueued before, and
        runs beside what comes behind it."""

    def join(self) -> None:
        """Join the second stream: work enqueued from now on starts after what was inside."""


class HostSide:
    """Side stream of a CPU: one thing after the other."""

    def fork(self) -> AbstractContextManager[None]:
        return nullcontext()

    def join(self) -> None:
        """Do nothing: the work is done already."""


class CudaSide:
    """Side stream of CUDA; inside a capture it becomes a branch of the graph.

    What it reads must live until `join`.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    @contextmanager
    def fork(self) -> Iterator[None]:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield

    def join(self) -> None:
        torch.cuda.current_stream(self._device).wait_stream(self._stream)


def side_of(device: torch.device) -> Side:
    return CudaSide(device) if device.type == "cuda" else HostSide()
