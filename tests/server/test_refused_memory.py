"""What a refused or failed call held is free when its answer is out, without a garbage collection."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from loramux.v1 import adapters_pb2

from lora_runtime import AdapterError, AdapterInfo, Engine

from ..support.servers import Harness, refused


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Large:
    """Stands for megabytes."""


async def all_gone(held: list[weakref.ref[Any]]) -> bool:
    """The threads' last instructions come after the answer: give them a moment."""
    for _ in range(200):
        if not any(ref() is not None for ref in held):
            return True
        await asyncio.sleep(0.01)
    return False


def watch_requests(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Any]]:
    held: list[weakref.ref[Any]] = []
    submit = engine.submit_at_once

    def watched(request: Any) -> Any:
        held.append(weakref.ref(request))
        return submit(request)

    monkeypatch.setattr(engine, "submit_at_once", watched)
    return held


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"prompt": "x", "adapter_id": "nobody"}, grpc.StatusCode.NOT_FOUND),
        ({"prompt": "x", "n": 99}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"token_ids": [10**6] * 100}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_refused_requests(
    served: Harness,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
    code: grpc.StatusCode,
) -> None:
    held = watch_requests(served.app.engine, monkeypatch)
    for _ in range(5):
        await refused(served.generate(**fields), code)
        await refused(served.stream(**fields).read(), code)
    assert len(held) == 10
    assert await all_gone(held)


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("kind", [RuntimeError, BaseException])
async def test_failed_requests(
    served: Harness, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    def fail(request: Any) -> None:
        raise kind("a panic")

    monkeypatch.setattr(served.app.engine, "submit_at_once", fail)
    held = watch_requests(served.app.engine, monkeypatch)
    for _ in range(5):
        await refused(served.generate(prompt="x"), grpc.StatusCode.INTERNAL)
    assert len(held) == 5
    assert await all_gone(held)


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AdapterError("no adapter"), grpc.StatusCode.INVALID_ARGUMENT),
        (BaseException("a panic"), grpc.StatusCode.INTERNAL),
    ],
)
async def test_refused_loads_and_unloads(
    served: Harness,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: grpc.StatusCode,
) -> None:
    held: list[weakref.ref[Any]] = []

    def fail(*_: Any, **__: Any) -> AdapterInfo:
        weights = Large()
        held.append(weakref.ref(weights))
        raise error.with_traceback(None)

    calls: list[tuple[str, Callable[[], Any]]] = [
        (
            "load_adapter",
            lambda: served.adapters.LoadAdapter(adapters_pb2.LoadAdapterRequest(path="a0")),
        ),
        (
            "unload_adapter",
            lambda: served.adapters.UnloadAdapter(
                adapters_pb2.UnloadAdapterRequest(adapter_id="a0", timeout_s=1)
            ),
        ),
        (
            "get_adapter",
            lambda: served.adapters.GetAdapter(adapters_pb2.GetAdapterRequest(adapter_id="a0")),
        ),
    ]
    for name, call in calls:
        monkeypatch.setattr(served.app.engine, name, fail)
        await refused(call(), code)
    assert len(held) == 3
    # The error is kept by this test, as an engine keeps the one that it failed with.
    assert await all_gone(held)
