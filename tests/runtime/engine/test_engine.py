"""The engine's promises to its callers: errors, cancellation, deadlines, failure, shutdown."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from lora_runtime import (
    AdapterPolicy,
    BaseModel,
    BaseModelError,
    ChatMessage,
    Engine,
    EngineConfig,
    EngineFailedError,
    EngineObserver,
    EngineStoppedError,
    InvalidRequestError,
    QueueFullError,
    Request,
    RequestCancelledError,
    RequestRecord,
    RequestTimeoutError,
    SamplingParams,
    StepStats,
    TokenEvent,
    UnknownAdapterError,
)

from ...support.engines import break_down, is_idle, slow_down, wait_until_idle
from ...support.models import save_base

LONG = SamplingParams(max_new_tokens=300, ignore_eos=True)
SHORT = SamplingParams(max_new_tokens=5, ignore_eos=True)


def test_sync_async_and_streams_agree(engine: Engine) -> None:
    request = Request(messages=(ChatMessage("user", "hi"),), adapter_id="a2", sampling=SHORT)

    async def gather() -> list[str]:
        streamed = "".join([e.text async for e in engine.submit(request)])
        return [streamed, (await engine.agenerate(request)).text]

    text = engine.generate(request).text
    assert text
    assert asyncio.run(gather()) == [text, text]
    assert "".join(e.text for e in engine.stream(request)) == text


def test_choices(engine: Engine) -> None:
    sampling = SamplingParams(max_new_tokens=6, temperature=1.0, seed=5, n=3, ignore_eos=True)
    first, again = (engine.generate(Request(prompt="hi", sampling=sampling)) for _ in range(2))
    assert [c.token_ids for c in first.choices] == [c.token_ids for c in again.choices]
    assert len({c.token_ids for c in first.choices}) == 3
    assert [c.index for c in first.choices] == [0, 1, 2]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (Request(), "prompt"),
        (Request(prompt=""), "prompt"),
        (Request(token_ids=()), "token_ids"),
        (Request(prompt="a", token_ids=(1,)), "prompt"),
        (Request(token_ids=(258,)), "token_ids"),
        (Request(prompt="x" * 512), "prompt"),
        (Request(prompt="x" * 1_000_000), "prompt"),
        (Request(prompt="hi", sampling=SamplingParams(temperature=float("nan"))), "temperature"),
        (Request(prompt="hi", adapter_id="x" * 300), "adapter_id"),
    ],
    ids=str,
)
def test_invalid_requests_name_the_field(engine: Engine, request_: Request, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        engine.submit(request_)
    assert [v.field for v in caught.value.violations] == [field]
    assert is_idle(engine.stats())


def test_messages_need_a_template(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", chat=False)
    with (
        Engine(base, EngineConfig(dtype="float32", kv_cache_bytes=1 << 20)) as engine,
        pytest.raises(InvalidRequestError, match="chat template"),
    ):
        engine.submit(Request(messages=(ChatMessage("user", "hi"),)))


def test_unknown_adapter_is_an_error(engine: Engine) -> None:
    with pytest.raises(UnknownAdapterError, match="nope"):
        engine.generate(Request(prompt="hi", adapter_id="nope"))


def test_context_ends_generation(engine: Engine) -> None:
    done = engine.generate(Request(prompt="x" * 500, sampling=LONG)).choices[0]
    assert len(done.token_ids) == 12
    assert done.finish_reason == "length"


def test_queue_limit(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(max_running=1, max_waiting=2)
    engine.set_policy("", AdapterPolicy(max_waiting=3))  # more than half of the queue
    slow_down(engine)
    handles = [engine.submit(Request(prompt="hi", sampling=SHORT)) for _ in range(3)]
    with pytest.raises(QueueFullError) as caught:
        engine.submit(Request(prompt="hi"))
    assert caught.value.retry_after_s > 0
    assert [len(h.result().choices[0].token_ids) for h in handles] == [5, 5, 5]
    engine.generate(Request(prompt="hi", sampling=SHORT))


def test_cancel_frees_everything(engine: Engine) -> None:
    slow_down(engine)
    handles = [
        engine.submit(Request(prompt="hi", adapter_id=f"a{i}", sampling=LONG)) for i in range(4)
    ]
    next(iter(handles[0]))
    for handle in handles:
        handle.cancel()
        handle.cancel()
        with pytest.raises(RequestCancelledError):
            handle.result()
    assert is_idle(wait_until_idle(engine))


def test_closing_a_stream_or_cancelling_a_task_cancels(engine: Engine) -> None:
    slow_down(engine)
    stream = engine.stream(Request(prompt="hi", sampling=LONG))
    next(stream)
    stream.close()  # type: ignore[attr-defined]

    async def cancelled_task() -> None:
        task = asyncio.ensure_future(
            engine.agenerate(Request(prompt="hi", adapter_id="a1", sampling=LONG))
        )
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled_task())
    assert is_idle(wait_until_idle(engine))


def test_deadline(engine: Engine) -> None:
    slow_down(engine)
    with pytest.raises(RequestTimeoutError):
        engine.generate(Request(prompt="hi", adapter_id="a1", sampling=LONG, timeout_s=0.2))
    assert is_idle(engine.stats())


def test_a_failure_is_loud_and_hangs_nobody(engine: Engine) -> None:
    slow_down(engine, 0.05)
    failed = threading.Event()

    class Ear(EngineObserver):
        def on_engine_failed(self, error: BaseException) -> None:
            failed.set()

    engine.add_observer(Ear())
    handles = [
        engine.submit(Request(prompt="hi", adapter_id="a1", sampling=LONG)) for _ in range(3)
    ]
    break_down(engine)
    for handle in handles:
        with pytest.raises(EngineFailedError):
            handle.result()
    assert failed.wait(10)
    assert not engine.healthy
    assert "device is gone" in str(engine.failure)
    with pytest.raises(EngineFailedError):
        engine.submit(Request(prompt="hi"))
    assert engine.stats().leases == 0


def test_shutdown_drains_then_cancels(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    slow_down(engine)
    handle = engine.submit(Request(prompt="hi", sampling=SHORT))
    engine.shutdown(drain_s=60)
    assert len(handle.result().choices[0].token_ids) == 5
    with pytest.raises(EngineStoppedError):
        engine.submit(Request(prompt="hi"))

    engine = make_engine()
    slow_down(engine)
    handle = engine.submit(Request(prompt="hi", sampling=LONG))
    next(iter(handle))
    engine.shutdown()
    with pytest.raises(EngineStoppedError):
        handle.result()
    assert is_idle(engine.stats())


def test_observers_see_steps_and_requests(engine: Engine) -> None:
    steps: list[StepStats] = []
    records: list[RequestRecord] = []

    class Ear(EngineObserver):
        def on_step(self, stats: StepStats) -> None:
            steps.append(stats)

        def on_request_finished(self, record: RequestRecord) -> None:
            records.append(record)

    class Broken(EngineObserver):
        def on_step(self, stats: StepStats) -> None:
            raise RuntimeError("an observer's error hurts nobody")

    engine.add_observer(Broken())
    engine.add_observer(Ear())
    slow_down(engine)
    handles = [
        engine.submit(Request(prompt="hi", adapter_id=f"a{i}", sampling=SHORT)) for i in range(3)
    ]
    for handle in handles:
        handle.result()
    assert max(s.distinct_adapters for s in steps) == 3  # mixed in one step
    assert max(s.sequences for s in steps) == 3
    assert sorted(r.adapter_id for r in records) == ["a0", "a1", "a2"]
    for record in records:
        assert (record.outcome, record.prompt_tokens, record.completion_tokens) == ("ok", 2, 5)
        assert record.ttft_s is not None
        assert 0 <= record.queue_s <= record.ttft_s <= record.e2e_s
        assert 0 < record.decode_s < record.e2e_s


def test_observers_hear_of_gaps_as_tokens_come(engine: Engine) -> None:
    """Each in its own step, of first choices, whatever becomes of the request."""
    heard: dict[str, list[float]] = {}
    ended: dict[str, RequestRecord] = {}
    before_the_end: set[str] = set()

    class Ear(EngineObserver):
        def on_step(self, stats: StepStats) -> None:
            assert len(stats.token_gaps) <= stats.sequences
            for name, gap in stats.token_gaps:
                heard.setdefault(name, []).append(gap)
                if name not in ended:
                    before_the_end.add(name)

        def on_request_finished(self, record: RequestRecord) -> None:
            ended[record.request_id] = record

    engine.add_observer(Ear())
    two = replace(SHORT, n=2, temperature=1.0)
    whole = engine.submit(Request(prompt="hi", adapter_id="a1", sampling=two))
    cut = engine.submit(Request(prompt="hi", sampling=LONG))
    whole.result()
    for _, _ in zip(range(20), cut, strict=False):
        pass
    cut.cancel()
    engine.shutdown()  # the last step is reported after its requests
    assert before_the_end == ended.keys() == {whole.request_id, cut.request_id}
    assert len(heard[whole.request_id]) == 4
    assert len(heard[cut.request_id]) >= 18
    for name, record in ended.items():
        assert sum(heard[name]) == pytest.approx(record.decode_s)


def test_base_stays_frozen(tiny_base: Path, tiny_adapters: dict[str, Path]) -> None:
    base = BaseModel.load(tiny_base, dtype="float32")
    before = {name: p.clone() for name, p in base.model.named_parameters()}
    with Engine(base, EngineConfig(kv_cache_bytes=1 << 20)) as engine:
        engine.load_adapter(tiny_adapters["a7"], "a7")
        engine.generate(Request(prompt="hi", adapter_id="a7", sampling=SHORT))
    assert before.keys() == dict(base.model.named_parameters()).keys()
    for name, parameter in base.model.named_parameters():
        assert not parameter.requires_grad
        assert parameter.equal(before[name])


def test_bases_that_cannot_be_served(tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(BaseModelError, match="not a directory"):
        BaseModel.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        BaseModel.load(tmp_path / "empty")
    with pytest.raises(BaseModelError, match="int4"):
        BaseModel.load(tiny_base, dtype="int4")
    with pytest.raises(BaseModelError, match="no-such-device"):
        BaseModel.load(tiny_base, device="no-such-device")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtypes(tiny_base: Path, tiny_adapters: dict[str, Path], dtype: str) -> None:
    with Engine(tiny_base, EngineConfig(dtype=dtype, kv_cache_bytes=1 << 20)) as engine:
        assert engine.info().dtype == dtype
        engine.load_adapter(tiny_adapters["a0"], "a0")
        done = engine.generate(Request(prompt="hi", adapter_id="a0", sampling=SHORT))
        assert len(done.choices[0].token_ids) == 5


def test_a_stream_that_nobody_reads_is_cancelled(engine: Engine) -> None:
    slow_down(engine)
    request = Request(prompt="hi", sampling=SamplingParams(max_new_tokens=200, ignore_eos=True))
    cast(Generator[TokenEvent], engine.stream(request)).close()
    engine.stream(request)  # dropped
    assert is_idle(wait_until_idle(engine))
    assert engine.stats().steps < 100
