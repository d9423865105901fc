"""When decode steps are captured and replayed, on a stand-in for torch.cuda: graphs themselves need
a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lora_runtime.backends.streams import CudaSide
from lora_runtime.backends.triton.decode_steps import DecodeSteps, GraphSteps, StepKey, plan_buffers

from ....support.backends import fused_of
from ....support.device_path import load_base
from ....support.models import save_base

DEVICE = torch.device("cuda", 0)


class FakeCuda:
    """Streams by name, and what happened on which."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.streams = ["main"]
        self.made = 0
        self.ends = True
        """Whether captures can be ended."""

    def install(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(
            torch,
            "cuda",
            SimpleNamespace(
                Stream=self.new_stream,
                stream=self.stream,
                current_stream=self.current,
                CUDAGraph=self.new_graph,
                graph=self.graph,
                graph_pool_handle=lambda: "pool",
                set_stream=self.set_stream,
            ),
        )

    def current(self, device: torch.device | None = None) -> Any:
        return self._stream(self.streams[-1])

    def new_stream(self, device: torch.device) -> Any:
        self.made += 1
        return self._stream(f"side{self.made}")

    def _stream(self, name: str) -> Any:
        def wait(other: Any) -> None:
            self.events.append(f"{name} waits for {other.name}")

        return SimpleNamespace(name=name, wait_stream=wait)

    def set_stream(self, stream: Any) -> None:
        self.streams[-1] = stream.name

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.streams.append(stream.name)
        yield
        self.streams.pop()

    def new_graph(self) -> Any:
        return SimpleNamespace(replay=lambda: self.events.append(f"replay on {self.streams[-1]}"))

    @contextmanager
    def graph(
        self, graph: Any, *, pool: str, stream: Any, capture_error_mode: str
    ) -> Iterator[None]:
        """As torch.cuda.graph, which sets the stream back only where the capture could be ended."""
        self.events.append(f"capture {pool} {capture_error_mode}")
        before = self.current()
        self.set_stream(stream)
        try:
            yield
        finally:
            if not self.ends:
                raise RuntimeError("capture_end")
            self.set_stream(before)

    def work(self, name: str) -> Callable[[], None]:
        return lambda: self.events.append(f"{name} on {self.streams[-1]}")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    fake.install(monkeypatch)
    return fake


def test_a_step_is_warmed_up_captured_once_and_replayed(cuda: FakeCuda) -> None:
    steps = GraphSteps(DEVICE)
    first = [
        "side1 waits for main",
        "one on side1",
        "main waits for side1",
        "capture pool thread_local",
        "one on side1",
        "replay on main",
    ]
    steps.launch(StepKey(4, True), cuda.work("one"))
    assert cuda.events == first
    steps.launch(StepKey(4, True), cuda.work("not run"))
    assert cuda.events == [*first, "replay on main"]
    steps.launch(StepKey(4, False), cuda.work("other"))
    assert cuda.events[7:] == [e.replace("one", "other") for e in first]


@pytest.mark.parametrize("ends", [True, False])
def test_a_capture_that_fails_leaves_the_thread_on_its_stream(cuda: FakeCuda, ends: bool) -> None:
    steps, cuda.ends = GraphSteps(DEVICE), ends

    def step() -> None:
        if any(event.startswith("capture") for event in cuda.events):
            raise RuntimeError("not while it is captured")

    with pytest.raises(RuntimeError, match="not while" if ends else "capture_end"):
        steps.launch(StepKey(4, True), step)
    assert cuda.streams == ["main"]


def test_the_shrink_runs_beside_the_base(cuda: FakeCuda) -> None:
    side = CudaSide(DEVICE)
    with side.fork():
        cuda.work("shrink")()
    cuda.work("base")()
    side.join()
    cuda.work("expand")()
    assert cuda.events == [
        "side1 waits for main",
        "shrink on side1",
        "base on main",
        "main waits for side1",
        "expand on main",
    ]


def test_all_steps_are_captured_at_start_the_largest_first(tmp_path: Path) -> None:
    base = load_base(save_base(tmp_path, layers=1), "reference", slots=1)
    runner: Any = base.make_runner(4, 16, max_running=5, max_context=32)
    decode: DecodeSteps = runner.decode
    keys: list[StepKey] = []

    class Launcher:
        name = "stand-in"

        def launch(self, key: StepKey, step: Callable[[], None]) -> None:
            keys.append(key)
            step()

    decode.launcher = Launcher()
    with torch.inference_mode():
        decode.capture_all()
        kinds = (False, False), (True, False), (True, True)
        assert keys == [StepKey(n, lora, head) for n in (5, 4, 2, 1) for lora, head in kinds]
        assert not any(k[:64].any() for k in runner.cache.keys)  # no sequence's block was written
        keys.clear()
        DecodeSteps(fused_of(base), runner.cache, decode.buffers, None, Launcher()).capture_all()
        assert keys == [StepKey(n, False) for n in (5, 4, 2, 1)]


def test_a_capture_that_fails_leaves_the_steps_uncaptured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = load_base(save_base(tmp_path, layers=1), "reference", slots=1)
    runner: Any = base.make_runner(4, 16, max_running=2, max_context=32)

    class Launcher:
        name = "stand-in"

        def launch(self, key: StepKey, step: Callable[[], None]) -> None:
            raise RuntimeError("operation not permitted when stream is capturing")

    runner._capture(Launcher())
    assert runner.decode.launcher.name == "eager"
    assert "no CUDA graphs: a decode step could not be captured (cuda_graphs=False" in caplog.text


def test_room_for_adapters_grows_with_the_rows() -> None:
    for rows, pairs in ((1, 4), (16, 16)):
        plan = plan_buffers(rows, 100, torch.device("cpu")).plan
        assert (len(plan.tile_start), len(plan.pair_slot), len(plan.hidden)) == (
            rows,
            pairs,
            pairs * 100,
        )
