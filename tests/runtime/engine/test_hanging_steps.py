"""A step that hangs: any thread can tell, and it does not keep a shutdown."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_runtime import (
    Engine,
    EngineObserver,
    EngineStoppedError,
    Request,
    RequestRecord,
    SamplingParams,
)

from ...support.engines import HangingSteps, wrap_forward

ONE = SamplingParams(max_new_tokens=1, ignore_eos=True)


@pytest.fixture
def hanging(make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]) -> Any:
    engine = make_engine(max_running=1)
    engine.load_adapter(tiny_adapters["a1"], "a1")
    hanging = HangingSteps(engine)
    yield hanging
    hanging.open.set()


def test_what_runs(hanging: HangingSteps) -> None:
    engine = hanging.engine
    assert engine.running_step() is None
    handle = engine.submit(Request(prompt="abc", adapter_id="a1", sampling=ONE))
    assert hanging.reached.wait(20)
    # While the store's lock is held, too: `stats` would wait for it.
    with engine._store._registry.locked():
        first, second = engine.running_step(), engine.running_step()
    assert first is not None
    assert second is not None
    assert 0 < first.age_s < second.age_s
    assert (first.tokens, first.sequences, first.adapters) == (3, 1, ("a1",))
    hanging.open.set()
    handle.result()
    engine.shutdown()
    assert engine.running_step() is None


def test_a_warm_up_that_hangs(hanging: HangingSteps) -> None:
    thread = threading.Thread(target=hanging.engine.warm_up)
    thread.start()
    assert hanging.reached.wait(20)
    step = hanging.engine.running_step()
    assert step is not None
    assert (step.tokens, step.adapters) == (1, ())
    hanging.open.set()
    thread.join()


def test_an_observer_that_hangs_is_part_of_the_turn(make_engine: Callable[..., Engine]) -> None:
    reached, go = threading.Event(), threading.Event()

    class Hangs(EngineObserver):
        def on_request_finished(self, record: RequestRecord) -> None:
            reached.set()
            go.wait()

    engine = make_engine()
    engine.add_observer(Hangs())
    engine.submit(Request(prompt="abc", sampling=ONE)).cancel()
    assert reached.wait(20)
    assert engine.running_step() is not None
    go.set()


def test_shutdown_leaves_a_step_that_hangs_behind(
    hanging: HangingSteps, caplog: pytest.LogCaptureFixture
) -> None:
    engine = hanging.engine
    running, waiting = (engine.submit(Request(prompt="abc", sampling=ONE)) for _ in range(2))
    assert hanging.reached.wait(20)
    assert not engine.shutdown(drain_s=0, join_s=0.1)
    for handle in (running, waiting):
        with pytest.raises(EngineStoppedError):
            handle.result()
    assert "it is left behind: RunningStep(age_s=" in caplog.text
    hanging.open.set()
    assert engine.shutdown()  # and all that it had is freed
    assert engine.stats().leases == 0
    assert engine.shutdown(join_s=0.1)


def test_a_failed_engine_runs_no_step(hanging: HangingSteps) -> None:
    def broken(batch: Any) -> Any:
        raise RuntimeError("the device is gone")

    wrap_forward(hanging.engine, lambda forward: broken)
    handle = hanging.engine.submit(Request(prompt="abc", sampling=ONE))
    with pytest.raises(Exception, match="the engine has failed"):
        handle.result()
    assert hanging.engine._thread is not None
    hanging.engine._thread.join()
    assert hanging.engine.running_step() is None
