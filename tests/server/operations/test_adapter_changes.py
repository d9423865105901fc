"""Canary, rollback, policies, sources, and adapters that must be read first, through real channels."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from loramux.v1 import adapters_pb2 as pb

from lora_runtime import AdapterPolicy, Engine, RegisteredVersion, Registration
from lora_runtime.adapters.store.reading import Reader
from server.policies import SettingsPolicies

from ...support.engines import slow_down
from ...support.servers import Harness, detail, drain, make_settings, refused, running

Code = grpc.StatusCode
SHORT: dict[str, Any] = {"prompt": "hi", "max_new_tokens": 4, "ignore_eos": True}
LONG: dict[str, Any] = {"prompt": "hi", "max_new_tokens": 400, "ignore_eos": True}


def policy_of(message: pb.Policy) -> AdapterPolicy:
    return AdapterPolicy(
        message.weight,
        message.max_running,
        message.max_waiting,
        message.tokens_per_minute,
        message.pinned,
    )


async def test_canary(served: Harness) -> None:
    adapters = served.adapters
    old = await adapters.GetAdapter(pb.GetAdapterRequest(adapter_id="a0"))
    assert (old.state, old.HasField("canary"), list(old.older_versions)) == (
        pb.ADAPTER_STATE_DEVICE,
        False,
        [],
    )
    loaded = await adapters.LoadAdapter(
        pb.LoadAdapterRequest(path="a1", adapter_id="a0", canary_weight=0.25)
    )
    assert (loaded.version, loaded.canary.weight) == (old.version, 0.25)
    new = loaded.canary.version
    answers = await asyncio.gather(*(served.generate(adapter_id="a0", **SHORT) for _ in range(64)))
    assert {a.adapter_version for a in answers} == {old.version, new}  # 1e-8 that one takes all
    promoted = await adapters.SetCanary(pb.SetCanaryRequest(adapter_id="a0", weight=1))
    assert (promoted.version, promoted.HasField("canary"), list(promoted.older_versions)) == (
        new,
        False,
        [old.version],
    )
    await refused(
        adapters.SetCanary(pb.SetCanaryRequest(adapter_id="a0", weight=0.5)),
        Code.FAILED_PRECONDITION,
    )
    await adapters.LoadAdapter(pb.LoadAdapterRequest(path="a2", adapter_id="a0", canary_weight=0.5))
    dropped = await adapters.SetCanary(pb.SetCanaryRequest(adapter_id="a0", weight=0))
    assert (dropped.version, dropped.HasField("canary")) == (new, False)


async def test_rollback(served: Harness) -> None:
    adapters = served.adapters
    first = await adapters.GetAdapter(pb.GetAdapterRequest(adapter_id="a0"))
    await refused(
        adapters.RollbackAdapter(pb.RollbackAdapterRequest(adapter_id="a0")),
        Code.FAILED_PRECONDITION,
    )
    second = await adapters.LoadAdapter(pb.LoadAdapterRequest(path="a1", adapter_id="a0"))
    third = await adapters.LoadAdapter(pb.LoadAdapterRequest(path="a2", adapter_id="a0"))
    assert list(third.older_versions) == [second.version, first.version]
    back = await adapters.RollbackAdapter(
        pb.RollbackAdapterRequest(adapter_id="a0", version=first.version)
    )
    assert back.version == first.version
    assert (await served.generate(adapter_id="a0", **SHORT)).adapter_version == first.version
    newest = await adapters.RollbackAdapter(pb.RollbackAdapterRequest(adapter_id="a0"))
    assert newest.version == back.older_versions[0]
    unknown = pb.RollbackAdapterRequest(adapter_id="a0", version="f" * 64)
    error = await refused(adapters.RollbackAdapter(unknown), Code.FAILED_PRECONDITION)
    assert detail(error, error_details_pb2.ResourceInfo).resource_name == "a0"
    await refused(
        adapters.RollbackAdapter(pb.RollbackAdapterRequest(adapter_id="nope")), Code.NOT_FOUND
    )


async def test_policies(served: Harness) -> None:
    adapters = served.adapters
    everyone = pb.Policy(weight=2, max_running=3)
    answer = await adapters.SetPolicy(pb.SetPolicyRequest(adapter_id="*", policy=everyone))
    assert not answer.HasField("adapter")
    own = AdapterPolicy(0.5, 1, 2, 3000, True)
    answer = await adapters.SetPolicy(
        pb.SetPolicyRequest(adapter_id="a1", policy=pb.Policy(**vars(own)))
    )
    assert policy_of(answer.adapter.policy) == own
    at_load = pb.Policy(max_waiting=7)
    loaded = await adapters.LoadAdapter(pb.LoadAdapterRequest(path="a2", policy=at_load))
    assert policy_of(loaded.policy) == AdapterPolicy(max_waiting=7)
    listed = (await adapters.ListAdapters(pb.ListAdaptersRequest())).adapters
    found = {a.adapter_id: policy_of(a.policy) for a in listed}
    assert (found["a0"], found["a1"]) == (AdapterPolicy(2, 3), own)


async def test_an_adapters_own_limit(served: Harness) -> None:
    slow_down(served.app.engine)
    limit = pb.SetPolicyRequest(adapter_id="a0", policy=pb.Policy(max_running=1, max_waiting=1))
    await served.adapters.SetPolicy(limit)
    streams = [served.stream(adapter_id="a0", **LONG)]
    await streams[0].read()  # before the next is sent: two at once may come in the other order
    streams.append(served.stream(adapter_id="a0", **LONG))
    while served.app.engine.stats().waiting == 0:
        await asyncio.sleep(0.01)
    error = await refused(served.generate(adapter_id="a0", **SHORT), Code.RESOURCE_EXHAUSTED)
    assert detail(error, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
    (violation,) = detail(error, error_details_pb2.QuotaFailure).violations
    assert violation.subject == "loramux.v1.Adapter:a0"
    assert (
        await served.generate(adapter_id="a1", **SHORT)
    ).adapter_id == "a1"  # others are not held up
    for stream in streams:
        stream.cancel()
    rejections = served.app.metrics.registry.get_sample_value
    assert rejections("loramux_requests_rejected_total", {"reason": "AdapterLimit"}) == 1


@pytest.mark.parametrize(
    ("rpc", "request_", "field"),
    [
        ("LoadAdapter", pb.LoadAdapterRequest(path="a0", canary_weight=1), "canary_weight"),
        ("LoadAdapter", pb.LoadAdapterRequest(path="a0", adapter_id="*"), "adapter_id"),
        ("LoadAdapter", pb.LoadAdapterRequest(path="a0", source="hf://a/b"), "path"),
        ("LoadAdapter", pb.LoadAdapterRequest(path="a0", policy=pb.Policy(weight=0)), "policy"),
        ("SetCanary", pb.SetCanaryRequest(adapter_id="a0"), "weight"),
        ("SetCanary", pb.SetCanaryRequest(adapter_id="a0", weight=1.5), "weight"),
        ("SetCanary", pb.SetCanaryRequest(adapter_id="a0", weight=float("nan")), "weight"),
        ("SetPolicy", pb.SetPolicyRequest(adapter_id="a0"), "policy"),
        ("SetPolicy", pb.SetPolicyRequest(policy=pb.Policy()), "adapter_id"),
        ("SetPolicy", pb.SetPolicyRequest(adapter_id="a0", policy=pb.Policy(weight=-1)), "policy"),
    ],
    ids=lambda v: str(v).replace("\n", " ").strip()[:60],
)
async def test_bad_fields(served: Harness, rpc: str, request_: Any, field: str) -> None:
    error = await refused(getattr(served.adapters, rpc)(request_), Code.INVALID_ARGUMENT)
    assert detail(error, error_details_pb2.BadRequest).field_violations[0].field == field
    await refused(
        served.adapters.SetPolicy(pb.SetPolicyRequest(adapter_id="nope", policy=pb.Policy())),
        Code.NOT_FOUND,
    )


async def test_sources(tiny_base: Path, adapter_root: Path, tmp_path: Path) -> None:
    url = f"file://{adapter_root}"
    settings = make_settings(tiny_base, adapter_sources=[url], adapter_cache_dir=str(tmp_path))
    async with running(settings) as served:
        loaded = await served.adapters.LoadAdapter(pb.LoadAdapterRequest(source=f"{url}/a3"))
        assert (loaded.adapter_id, loaded.source) == ("a3", f"{url}/a3")
        assert (await served.generate(adapter_id="a3", **SHORT)).adapter_version == loaded.version
        gone = pb.LoadAdapterRequest(source=f"{url}/nope")
        await refused(served.adapters.LoadAdapter(gone), Code.INVALID_ARGUMENT)
        await refused(
            served.adapters.LoadAdapter(pb.LoadAdapterRequest(source="hf://o/n")),
            Code.PERMISSION_DENIED,
        )


async def test_an_adapter_that_cannot_be_brought_in(served: Harness, tmp_path: Path) -> None:
    gone = RegisteredVersion("0" * 64, str(tmp_path / "gone"), str(tmp_path / "gone"))
    served.app.engine.register(Registration("cold", (gone,)))
    cold = await served.adapters.GetAdapter(pb.GetAdapterRequest(adapter_id="cold"))
    assert cold.state == pb.ADAPTER_STATE_COLD
    for call in (
        served.generate(adapter_id="cold", **SHORT),
        drain(served.stream(adapter_id="cold", **SHORT)),
    ):
        error = await refused(call, Code.FAILED_PRECONDITION)
        assert detail(error, error_details_pb2.ResourceInfo).resource_name == "cold"
    rejections = served.app.metrics.registry.get_sample_value
    assert rejections("loramux_requests_rejected_total", {"reason": "AdapterUnavailable"}) == 2


async def test_slow_adapters_hold_up_nobody_else(
    served: Harness, adapter_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First readings, loads and unloads that wait, all more than there are threads to submit
    requests on."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    (known,) = [r.versions for r in served.app.engine.registrations() if r.adapter_id == "a5"]
    await served.adapters.UnloadAdapter(pb.UnloadAdapterRequest(adapter_id="a5"))
    served.app.engine.register(Registration("cold", known))
    gate, read = threading.Event(), Reader.read

    def slow(reader: Reader, *args: Any) -> Any:
        gate.wait(60)
        return read(reader, *args)

    monkeypatch.setattr(Reader, "read", slow)
    slow_down(served.app.engine)
    busy = served.stream(adapter_id="a0", **LONG)
    await busy.read()
    calls = [
        asyncio.ensure_future(call)
        for call in (
            *(served.generate(adapter_id="cold", **SHORT) for _ in range(3)),
            *(
                served.adapters.LoadAdapter(pb.LoadAdapterRequest(path="a6", adapter_id=f"x{i}"))
                for i in range(3)
            ),
            served.adapters.UnloadAdapter(pb.UnloadAdapterRequest(adapter_id="a0", timeout_s=60)),
        )
    ]
    for _ in range(3):
        assert (await served.generate(adapter_id="a1", **SHORT)).adapter_id == "a1"
    assert not any(call.done() for call in calls)
    gate.set()
    busy.cancel()
    answers = await asyncio.gather(*calls)
    assert {a.adapter_version for a in answers[:3]} == {known[0].version}


async def test_settings_policies_come_with_their_adapters(
    tiny_base: Path, tiny_adapters: dict[str, Path], adapter_root: Path
) -> None:
    two = {"weight": 2.0}
    settings = make_settings(
        tiny_base,
        {"a0": tiny_adapters["a0"]},
        adapter_roots=[adapter_root],
        policies={
            "*": {"max_running": 4},
            "": {"max_running": 5},
            "a0": two,
            "later": two,
            "own": two,
        },
    )
    async with running(settings) as served:

        async def policy(name: str) -> AdapterPolicy:
            return policy_of(
                (await served.adapters.GetAdapter(pb.GetAdapterRequest(adapter_id=name))).policy
            )

        nine = pb.Policy(weight=9)
        for name, path, own in (("later", "a1", None), ("own", "a2", nine), ("other", "a3", None)):
            await served.adapters.LoadAdapter(
                pb.LoadAdapterRequest(path=path, adapter_id=name, policy=own)
            )
        assert [await policy(n) for n in ("a0", "later", "own", "other")] == [
            AdapterPolicy(2),
            AdapterPolicy(2),
            AdapterPolicy(9),
            AdapterPolicy(max_running=4),
        ]
        # A change by a call is left alone, and ends with the id.
        await served.adapters.SetPolicy(
            pb.SetPolicyRequest(adapter_id="later", policy=pb.Policy(weight=3))
        )
        await served.adapters.LoadAdapter(pb.LoadAdapterRequest(path="a4", adapter_id="later"))
        assert await policy("later") == AdapterPolicy(3)
        await served.adapters.UnloadAdapter(pb.UnloadAdapterRequest(adapter_id="later"))
        await served.adapters.LoadAdapter(pb.LoadAdapterRequest(path="a4", adapter_id="later"))
        assert await policy("later") == AdapterPolicy(2)


def test_a_policy_that_cannot_hold_does_not_end_the_server(engine: Engine) -> None:
    """a0 to a7 are there; pinning what has no room is an error in the log."""
    small = Engine(engine.base, type(engine.config)(max_adapters=1, kv_cache_bytes=8 << 20))
    policies = SettingsPolicies(small, {f"a{i}": AdapterPolicy(pinned=True) for i in range(2)})
    small.add_observer(policies)
    for registration in engine.registrations():
        small.register(registration)
    assert sorted(r.adapter_id for r in small.registrations() if r.policy is not None) == ["a0"]
