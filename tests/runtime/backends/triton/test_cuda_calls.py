"""What copies and the memory plan ask of CUDA, on a torch that only notes it: nothing is shown of
what a GPU does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from lora_runtime.backends.pinned import pinned_bytes
from lora_runtime.backends.streams import (
    CudaCopyStream,
    CudaWorkStreams,
    HostCopyStream,
    HostWorkStreams,
    copy_stream,
    work_streams,
)
from lora_runtime.backends.torch.adapter import TorchAdapter
from lora_runtime.backends.triton.placement import FlatAdapter, ModuleKind, Placer
from lora_runtime.engine.memory import CudaProbe
from lora_runtime.kernels.updates import ModuleDelta

DEVICE = torch.device("cpu")  # where the notes are kept


class FakeCuda:
    """`log`: what was done, and on which stream."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.log: list[tuple[str, str]] = []
        self.stream = "default"
        self.allocated, self.peak = 100, 0
        cuda = self

        class Stream:
            def __init__(self, device: torch.device) -> None:
                self.name = "side"

            def wait_stream(self, other: str) -> None:
                cuda.log.append((f"wait for {other}", self.name))

            def record_event(self) -> str:
                cuda.log.append(("event", self.name))
                return "event"

        @contextmanager
        def stream(entered: Stream) -> Iterator[None]:
            before, self.stream = self.stream, entered.name
            yield
            self.stream = before

        def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                self.log.append((name, self.stream))
                return function(*args, **kwargs)

            return call

        patch.setattr(torch.cuda, "Stream", Stream)
        patch.setattr(torch.cuda, "stream", stream)
        patch.setattr(torch.cuda, "current_stream", lambda device: self.stream)
        patch.setattr(torch.cuda, "default_stream", lambda device: "default")
        patch.setattr(torch.Tensor, "pin_memory", noted("pin", torch.Tensor.clone))
        patch.setattr(torch.Tensor, "copy_", noted("copy", torch.Tensor.copy_))
        for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
            patch.setattr(torch.cuda, name, noted(name, lambda *_: None))
        patch.setattr(torch.cuda, "mem_get_info", noted("mem_get_info", lambda device: (3, 10)))
        patch.setattr(torch.cuda, "memory_allocated", lambda device: self.allocated)
        patch.setattr(torch.cuda, "max_memory_allocated", lambda device: self.peak)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(monkeypatch)


def test_copies_run_on_the_side_stream_and_table_rows_on_the_steps(cuda: FakeCuda) -> None:
    delta = ModuleDelta(ModuleKind.LINEAR, 4, torch.ones(1, 4), torch.ones(4, 1))
    staged = FlatAdapter({"layers.0.q": delta, "layers.1.q": delta})
    slots = Placer({}, 1, torch.float32, CudaCopyStream(DEVICE), min_copy=0)
    cuda.log.clear()
    placed = slots.place(staged)
    assert cuda.log == [("copy", "side"), ("event", "side")]  # both layers share the tensors
    assert torch.equal(placed.buffer, staged.buffer)
    cuda.log.clear()
    slots.flush()
    assert cuda.log == [("pin", "default"), ("copy", "default")] * 3  # what is copied is a snapshot
    assert slots.copies.pinned


def test_each_thread_that_stages_has_a_stream_of_its_own(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[object] = []
    note = torch.cuda.stream

    def enter(stream: Any) -> Any:
        entered.append(stream)
        return note(stream)

    monkeypatch.setattr(torch.cuda, "stream", enter)
    streams = CudaWorkStreams(DEVICE)

    def twice() -> None:
        for _ in range(2):
            with streams.own():
                assert cuda.stream == "side"

    twice()
    assert cuda.stream == "default"
    thread = threading.Thread(target=twice)
    thread.start()
    thread.join()
    assert cuda.log == [("wait for default", "side")] * 2  # the base's weights were loaded there
    first, second = entered[0], entered[2]
    assert entered == [first, first, second, second]
    assert first is not second


def test_the_probe_reads_sizes_when_all_is_given_back(cuda: FakeCuda) -> None:
    probe = CudaProbe(DEVICE)
    assert probe.sizes() == (3, 10)
    assert [name for name, _ in cuda.log] == ["synchronize", "empty_cache", "mem_get_info"]

    def run() -> None:
        assert cuda.log[-1][0] == "reset_peak_memory_stats"
        cuda.peak = 175

    assert probe.peak(run) == 75


def test_streams_by_device(cuda: FakeCuda) -> None:
    assert isinstance(copy_stream(torch.device("cuda", 0)), CudaCopyStream)
    assert isinstance(copy_stream(torch.device("cpu")), HostCopyStream)
    assert isinstance(work_streams(torch.device("cuda", 0)), CudaWorkStreams)
    assert isinstance(work_streams(torch.device("cpu")), HostWorkStreams)


def test_pinned_memory_is_counted_as_it_is_taken(cuda: FakeCuda) -> None:
    assert [pinned_bytes(n) for n in (0, 1, 2, 3, 4096, 4097, 3 << 30)] == [
        0,
        1,
        2,
        4,
        4096,
        8192,
        4 << 30,
    ]
    shared = torch.ones(3)
    adapter = TorchAdapter(
        {
            "q": ModuleDelta(ModuleKind.LINEAR, 3, bias=shared, gain=shared),
            "k": ModuleDelta(ModuleKind.LINEAR, 3, bias=shared, gain=torch.ones(4)),
        }
    )
    assert (adapter.num_bytes, adapter.host_bytes) == (28, 28)
    pinned = adapter.pinned()
    assert (pinned.num_bytes, pinned.host_bytes) == (28, 32)
    flat = FlatAdapter(adapter.deltas)
    assert flat.host_bytes == flat.num_bytes == 512
