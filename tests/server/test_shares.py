"""What a token may take from others: places, priorities, pins, weights, limits; and what it may know
of their prompts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2
from loramux.v1 import adapters_pb2 as pb
from loramux.v1 import inference_pb2
from loramux_client import Client

from lora_runtime import AdapterPolicy

from ..support.engines import slow_down
from ..support.servers import Harness, detail, make_settings, refused, running
from ..support.tokens import bearer, token_of, write_tokens

Code = grpc.StatusCode
LONG: dict[str, Any] = {"prompt": "hi", "max_new_tokens": 100, "ignore_eos": True}
SHORT: dict[str, Any] = {"prompt": "hi", "max_new_tokens": 1, "ignore_eos": True}


@pytest_asyncio.fixture
async def shared(
    tiny_base: Path, tiny_adapters: dict[str, Path], adapter_root: Path, tmp_path: Path
) -> AsyncIterator[Harness]:
    tokens = write_tokens(
        tmp_path / "tokens.yaml",
        alice={"adapters": ["*"]},
        bob={"adapters": ["*"]},
        modest={"adapters": ["*"], "max_waiting": 1},
        urgent={"adapters": ["*"], "max_priority": 5},
        team={"adapters": ["team-*", "a0"], "admin": True},
        owner={"adapters": ["*"], "admin": True, "shares": True},
    )
    settings = make_settings(
        tiny_base,
        {name: tiny_adapters[name] for name in ("a0", "a1")},
        adapter_roots=[adapter_root],
        auth_file=tokens,
        max_adapters=4,
        max_running=2,
        max_waiting=8,
        policies={"*": {"max_running": 2, "tokens_per_minute": 100_000}},
    )
    async with running(settings) as harness:
        yield harness


def generate(served: Harness, who: str, **fields: Any) -> Any:
    return served.inference.Generate(
        inference_pb2.GenerateRequest(**(SHORT | fields)), metadata=bearer(who)
    )


async def set_policy(served: Harness, who: str, adapter_id: str, **fields: Any) -> None:
    request = pb.SetPolicyRequest(adapter_id=adapter_id, policy=pb.Policy(**fields))
    await served.adapters.SetPolicy(request, metadata=bearer(who))


def load(served: Harness, who: str, adapter_id: str, path: str, **policy: Any) -> Any:
    request = pb.LoadAdapterRequest(adapter_id=adapter_id, path=path, policy=pb.Policy(**policy))
    return served.adapters.LoadAdapter(request, metadata=bearer(who))


async def test_one_token_does_not_fill_the_queue(shared: Harness) -> None:
    slow_down(shared.app.engine, 0.05)
    flood = [
        asyncio.ensure_future(generate(shared, "alice", **LONG, n=2, adapter_id=name))
        for name in ("a0", "a1", "a0")
    ]
    while shared.app.engine.stats().waiting < 4:
        await asyncio.sleep(0.01)
    error = await refused(generate(shared, "alice"), Code.RESOURCE_EXHAUSTED)
    trailers = dict(error.trailing_metadata())
    assert trailers["loramux-reason"] == "caller_limit"
    assert int(str(trailers["grpc-retry-pushback-ms"])) > 0
    assert detail(error, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
    (violation,) = detail(error, error_details_pb2.QuotaFailure).violations
    assert violation.subject == "caller:alice"
    rejections = shared.app.metrics.registry.get_sample_value
    assert rejections("loramux_requests_rejected_total", {"reason": "CallerLimit"}) == 1
    assert len((await generate(shared, "bob", n=2)).choices) == 2
    assert len((await generate(shared, "bob", n=2, adapter_id="a0")).choices) == 2
    error = await refused(generate(shared, "modest", n=4), Code.RESOURCE_EXHAUSTED)
    assert "1 waiting sequences" in error.details()
    for call in flood:
        call.cancel()
    await shared.idle_stats()


async def test_the_highest_priority_is_the_tokens(shared: Harness) -> None:
    for who, priority, most in (("alice", 1, 0), ("urgent", 6, 5), ("owner", 10, 0)):
        error = await refused(generate(shared, who, priority=priority), Code.PERMISSION_DENIED)
        assert f"priority {priority}" in error.details()
        assert str(most) in error.details()
        await generate(shared, who, priority=most)
    await generate(shared, "alice", priority=-10)


async def test_no_policy_takes_from_others_without_the_right(shared: Harness) -> None:
    less: dict[str, Any] = {"weight": 0.5, "max_running": 1, "tokens_per_minute": 10}
    await load(shared, "team", "team-0", "a2", **less, max_waiting=4)
    greedy: list[tuple[str, dict[str, Any]]] = [
        ("pinned", less | {"pinned": True}),
        ("weight", less | {"weight": 1.5}),
        ("max_waiting", less | {"max_waiting": 5}),
        ("max_running", less | {"max_running": 3}),
        ("max_running", less | {"max_running": 0}),  # no limit
        ("tokens_per_minute", less | {"tokens_per_minute": 100_001}),
        ("tokens_per_minute", less | {"tokens_per_minute": 0}),
    ]
    for name, fields in greedy:
        for call in (
            set_policy(shared, "team", "team-0", **fields),
            load(shared, "team", "team-1", "a3", **fields),
        ):
            error = await refused(call, Code.PERMISSION_DENIED)
            assert error.details().startswith(f"policy.{name}: ")
            assert "'team-" in error.details()
    assert {a.adapter_id for a in shared.app.engine.list_adapters()} == {"a0", "a1", "team-0"}
    await set_policy(shared, "team", "team-0", max_running=2, tokens_per_minute=100_000)
    for _, fields in greedy:
        await set_policy(shared, "owner", "team-0", **fields)


async def test_what_the_operator_gave_may_be_set_again(shared: Harness) -> None:
    shared.app.engine.set_policy("a0", AdapterPolicy(weight=3, pinned=True))
    await set_policy(shared, "team", "a0", weight=2, pinned=True)
    await refused(set_policy(shared, "team", "a0", weight=3), Code.PERMISSION_DENIED)


async def test_calls_pin_half_of_the_slots(shared: Harness) -> None:
    for name in ("p0", "p1"):
        await load(shared, "owner", name, "a2" if name == "p0" else "a3", pinned=True)
    error = await refused(load(shared, "owner", "p2", "a4", pinned=True), Code.RESOURCE_EXHAUSTED)
    assert "50% of the slots" in error.details()
    await refused(set_policy(shared, "owner", "a0", pinned=True), Code.RESOURCE_EXHAUSTED)
    await set_policy(shared, "owner", "p0", pinned=True, weight=2)  # none is added
    await load(shared, "owner", "p0", "a5", pinned=True)  # takes its own slot
    canary = pb.LoadAdapterRequest(adapter_id="p0", path="a6", canary_weight=0.5)
    await refused(
        shared.adapters.LoadAdapter(canary, metadata=bearer("owner")), Code.RESOURCE_EXHAUSTED
    )
    for name in ("a0", "a1"):
        assert (await generate(shared, "alice", adapter_id=name)).adapter_id == name
    shared.app.engine.set_policy("a0", AdapterPolicy(pinned=True))  # the operator's own


async def test_prefixes_are_a_tokens_own(shared: Harness) -> None:
    async def cached(who: str, **fields: Any) -> int:
        answer = await generate(shared, who, prompt="the secret of a customer " * 3, **fields)
        return answer.choices[0].usage.cached_tokens

    async def streamed(who: str) -> int:
        request = inference_pb2.GenerateRequest(
            **(SHORT | {"prompt": "the secret of a customer " * 3})
        )
        call = shared.inference.GenerateStream(request, metadata=bearer(who))
        return [e.usage.cached_tokens async for e in call][-1]

    assert await cached("alice") == 0
    assert await cached("alice") > 0
    assert await streamed("alice") > 0
    assert await cached("bob") == 0
    assert await streamed("urgent") == 0
    assert await cached("alice", cache_salt="ours") == 0
    assert await cached("bob", cache_salt="ours") > 0
    error = await refused(generate(shared, "bob", cache_salt="x" * 257), Code.INVALID_ARGUMENT)
    assert detail(error, error_details_pb2.BadRequest).field_violations[0].field == "cache_salt"


async def test_without_tokens_all_share(served: Harness) -> None:
    answers = [
        await served.generate(**(SHORT | {"prompt": "the same for all " * 3})) for _ in range(2)
    ]
    assert [a.choices[0].usage.cached_tokens > 0 for a in answers] == [False, True]
    await served.generate(**SHORT, priority=10)
    await served.adapters.SetPolicy(
        pb.SetPolicyRequest(adapter_id="a0", policy=pb.Policy(weight=5, pinned=True))
    )


async def test_the_client_gives_a_salt(shared: Harness) -> None:
    def ask() -> list[inference_pb2.GenerateStreamResponse]:
        fields: dict[str, Any] = SHORT | {"prompt": "x" * 60, "cache_salt": "ours"}
        with Client(shared.target, token=token_of("alice")) as client:
            return list(client.stream(**fields))

    assert (await asyncio.to_thread(ask))[-1].usage.cached_tokens == 0
    assert (await asyncio.to_thread(ask))[-1].usage.cached_tokens > 0


async def test_one_tokens_unloads_leave_others_theirs(
    shared: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits for requests that go on, and has a thread as long."""
    go_on, unload = threading.Event(), shared.app.engine.unload_adapter

    def wait(adapter_id: str, timeout_s: float) -> Any:
        if adapter_id.startswith("team-"):
            go_on.wait()
        return unload(adapter_id, timeout_s)

    monkeypatch.setattr(shared.app.engine, "unload_adapter", wait)

    def ask(who: str, adapter_id: str) -> Any:
        request = pb.UnloadAdapterRequest(adapter_id=adapter_id, timeout_s=30)
        return shared.adapters.UnloadAdapter(request, metadata=bearer(who))

    calls = [asyncio.ensure_future(_settled(ask("team", f"team-{i}"))) for i in range(40)]
    await asyncio.sleep(0.1)
    try:
        await asyncio.wait_for(ask("owner", "a1"), 30)
        assert not any(call.done() for call in calls)
    finally:
        go_on.set()
    assert set(await asyncio.gather(*calls)) == {Code.NOT_FOUND}


async def _settled(call: Any) -> Any:
    return await call.code()
