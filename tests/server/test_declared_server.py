"""Declared adapters in a running server: health, ListDeclaredAdapters, metrics, restarts."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from grpc_health.v1 import health_pb2
from loramux.v1 import adapters_pb2, server_pb2
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from server.config import Settings
from server.declared import StateFileError
from server.declared.state_file import Saved, StateFile

from ..support.declared import put_adapter, replace, until
from ..support.servers import Harness, make_settings, running
from ..support.tokens import bearer, write_tokens

_STATUS = health_pb2.HealthCheckResponse


async def declared(served: Harness) -> dict[str, str]:
    """Name → state."""
    answer = await served.adapters.ListDeclaredAdapters(adapters_pb2.ListDeclaredAdaptersRequest())
    return {adapter.name: adapter.state for adapter in answer.adapters}


async def becomes_ready(served: Harness) -> None:
    watch = served.health.Watch(health_pb2.HealthCheckRequest())
    while (await watch.read()).status != _STATUS.SERVING:
        pass
    watch.cancel()


async def test_health_waits_for_what_is_declared(
    tiny_base: Path, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    manifest, watched = tmp_path / "adapters.yaml", tmp_path / "watched"
    entry = {
        "name": "a",
        "source": str(tiny_adapters["a0"]),
        "policy": {"weight": 2, "max_running": 1},
    }
    replace(manifest, yaml.safe_dump({"adapters": [entry]}))
    broken = put_adapter(watched / "b")
    settings = make_settings(
        tiny_base, adapter_manifest=manifest, adapter_watch=watched, reconcile_s=0.02
    )
    async with running(settings) as served:
        await asyncio.to_thread(
            until, lambda: served.declared_states() == {"a": "ready", "b": "failed"}
        )
        assert await declared(served) == {"a": "ready", "b": "failed"}
        assert (
            await served.health.Check(health_pb2.HealthCheckRequest())
        ).status == _STATUS.NOT_SERVING
        answer = await served.generate(
            prompt="hi", adapter_id="a"
        )  # those that are there serve all the same
        listed = await served.adapters.ListDeclaredAdapters(
            adapters_pb2.ListDeclaredAdaptersRequest()
        )
        assert answer.adapter_version == listed.adapters[0].version
        assert listed.adapters[1].error
        assert served.app.engine.get_adapter("a").policy.max_running == 1
        metrics = generate_latest(served.app.metrics.registry).decode()
        assert 'loramux_declared_adapters{state="failed"} 1.0' in metrics
        assert "loramux_declared_adapters_ready 0.0" in metrics

        (broken / "adapter_config.json").unlink()
        await becomes_ready(served)
        replace(manifest, "adapters: [")
        put_adapter(watched / "c")
        await asyncio.to_thread(
            until, lambda: served.declared_states() == {"": "failed", "a": "ready", "c": "failed"}
        )
        # What is declared later does not take the server from those who use the rest.
        assert (
            await served.health.Check(health_pb2.HealthCheckRequest())
        ).status == _STATUS.SERVING


def declare(manifest: Path, **sources: Path) -> None:
    entries = [{"name": name, "source": str(path)} for name, path in sources.items()]
    replace(manifest, yaml.safe_dump({"adapters": entries}))


async def readiness(served: Harness, who: str = "") -> server_pb2.Readiness:
    request = server_pb2.GetServerInfoRequest()
    metadata = bearer(who) if who else None
    return (await served.server.GetServerInfo(request, metadata=metadata)).readiness


async def is_ready(served: Harness) -> bool:
    return (await served.health.Check(health_pb2.HealthCheckRequest())).status == _STATUS.SERVING


async def test_why_it_is_not_ready(
    tiny_base: Path, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    manifest = tmp_path / "adapters.yaml"
    declare(manifest, a=tiny_adapters["a0"], b=tmp_path / "gone")
    settings = make_settings(
        tiny_base,
        adapter_manifest=manifest,
        reconcile_s=0.02,
        auth_file=write_tokens(
            tmp_path / "tokens.yaml",
            root={"adapters": ["*"], "admin": True},
            user={"adapters": ["a"]},
        ),
    )
    reason = "the directory cannot be read: No such file or directory"
    with capture_logs() as logs:
        async with running(settings) as served:
            until_ready = asyncio.ensure_future(becomes_ready(served))
            await asyncio.to_thread(
                until, lambda: served.declared_states() == {"a": "ready", "b": "pending"}
            )
            answer = await readiness(served, "root")
            assert answer.state == server_pb2.SERVER_STATE_NOT_READY
            assert [(w.name, w.error) for w in answer.waiting_for] == [("b", reason)]
            assert answer.waiting_for_count == 1
            # What a token's scope does not cover is not shown.
            answer = await readiness(served, "user")
            assert answer == server_pb2.Readiness(state=server_pb2.SERVER_STATE_NOT_READY)
            (tmp_path / "gone").symlink_to(tiny_adapters["a1"])
            await until_ready
            assert (await readiness(served, "user")).state == server_pb2.SERVER_STATE_READY
    events = [line["event"] for line in logs]
    waiting = next(event for event in events if event.startswith("not ready: waiting for"))
    assert f"b (pending: {reason})" in waiting
    assert events.index("serving") < events.index(waiting) < events.index("ready")
    said = [line for line in logs if line["event"] == "declared adapter pending"]
    assert [(line["adapter"], line["error"]) for line in said] == [("b", reason)]


async def test_a_manifest_that_cannot_be_read_is_shown_to_administrators(
    tiny_base: Path, tmp_path: Path
) -> None:
    settings = make_settings(
        tiny_base,
        adapter_manifest=tmp_path / "adapters.yaml",
        reconcile_s=0.02,
        auth_file=write_tokens(
            tmp_path / "tokens.yaml",
            root={"adapters": ["*"], "admin": True},
            user={"adapters": ["*"]},
        ),
    )
    async with running(settings) as served:
        await asyncio.to_thread(until, served.declared_states)
        (place,) = (await readiness(served, "root")).waiting_for
        assert (place.name, place.source) == ("", str(tmp_path / "adapters.yaml"))
        assert "No such file" in place.error
        assert (await readiness(served, "user")).waiting_for_count == 0
        value = served.app.metrics.registry.get_sample_value
        assert value("loramux_not_ready", {"reason": "manifest_unreadable"}) == 1


async def test_ready_after_a_while_without_a_broken_one(
    tiny_base: Path, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    declare(tmp_path / "adapters.yaml", a=tiny_adapters["a0"], b=tmp_path / "gone")
    settings = make_settings(
        tiny_base,
        adapter_manifest=tmp_path / "adapters.yaml",
        reconcile_s=3600,
        ready_after_s=0.5,
    )
    async with running(settings) as served:
        await becomes_ready(served)
        assert served.declared_states()["b"] == "pending"
        assert (await readiness(served)).state == server_pb2.SERVER_STATE_READY


async def crash(served: Harness, state: Path) -> bytes:
    """What a killed process leaves: the state file as it is once it says that it was ready."""
    await asyncio.to_thread(until, lambda: StateFile(state).read().was_ready)
    return state.read_bytes()


async def test_a_crash_with_a_broken_entry_does_not_take_out_what_served(
    tiny_base: Path, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    manifest, state = tmp_path / "adapters.yaml", tmp_path / "state" / "adapters.json"
    (tmp_path / "mine").symlink_to(tiny_adapters["a1"])
    served_before = {"a": tiny_adapters["a0"], "b": tmp_path / "mine"}
    settings = make_settings(
        tiny_base, adapter_manifest=manifest, state_file=state, reconcile_s=0.02
    )
    declare(manifest, **served_before)
    async with running(settings) as served:
        await becomes_ready(served)
        declare(manifest, **served_before, broken=tmp_path / "gone")
        await asyncio.to_thread(until, lambda: "broken" in served.declared_states())
        assert await is_ready(served)
        left = await crash(served, state)
    for _ in range(2):
        state.write_bytes(left)
        async with running(settings) as served:
            await becomes_ready(served)
            assert served.declared_states()["broken"] != "ready"
            for name in served_before:
                await served.generate(prompt="hi", adapter_id=name, max_new_tokens=1)
            left = await crash(served, state)

    # Neither does one whose directory has gone since, nor a manifest that is broken as a whole.
    (tmp_path / "mine").unlink()
    state.write_bytes(left)
    async with running(settings) as served:
        await becomes_ready(served)
        await served.generate(prompt="hi", adapter_id="a", max_new_tokens=1)
    replace(manifest, "adapters: [")
    state.write_bytes(left)
    async with running(settings) as served:
        await becomes_ready(served)
        await served.generate(prompt="hi", adapter_id="a", max_new_tokens=1)

    # But a new pod has a state of its own, and a rollout stops there.
    state.unlink()
    for _ in range(2):  # also when that pod crashes
        declare(manifest, a=tiny_adapters["a0"], broken=tmp_path / "gone")
        async with running(settings) as served:
            await asyncio.to_thread(
                until, lambda: served.declared_states() == {"a": "ready", "broken": "pending"}
            )
            assert not await is_ready(served)


async def test_registrations_survive_a_restart(
    tiny_base: Path, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    settings = make_settings(
        tiny_base, state_file=tmp_path / "state.json", adapter_roots=[tiny_adapters["a0"].parent]
    )
    async with running(settings) as served:
        loaded = await served.adapters.LoadAdapter(adapters_pb2.LoadAdapterRequest(path="a0"))
    async with running(settings) as served:
        await becomes_ready(served)
        again = await served.adapters.GetAdapter(adapters_pb2.GetAdapterRequest(adapter_id="a0"))
        assert (again.version, again.state) == (loaded.version, adapters_pb2.ADAPTER_STATE_COLD)
        assert (
            await served.generate(prompt="hi", adapter_id="a0")
        ).adapter_version == loaded.version
        assert await declared(served) == {}


async def test_a_policy_of_the_settings_is_not_remembered(
    tiny_base: Path, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    def settings(weight: float) -> Settings:
        return make_settings(
            tiny_base,
            state_file=tmp_path / "state.json",
            adapter_roots=[tiny_adapters["a0"].parent],
            policies={"a0": {"weight": weight}, "a1": {"weight": weight}},
        )

    def weights(served: Harness) -> list[float]:
        return [served.app.engine.get_adapter(name).policy.weight for name in ("a0", "a1")]

    async with running(settings(2)) as served:
        for name in ("a0", "a1"):
            await served.adapters.LoadAdapter(adapters_pb2.LoadAdapterRequest(path=name))
        own = adapters_pb2.SetPolicyRequest(adapter_id="a1", policy=adapters_pb2.Policy(weight=7))
        await served.adapters.SetPolicy(own)
        assert weights(served) == [2, 7]
    for weight in (3, 4):
        async with running(settings(weight)) as served:
            assert weights(served) == [weight, 7]


async def test_what_is_registered_while_the_server_drains_is_remembered(
    tiny_base: Path, tiny_adapters: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(tiny_base, state_file=tmp_path / "state.json")
    async with running(settings) as served:
        engine, shutdown = served.app.engine, served.app.engine.shutdown

        def acknowledge(drain_s: float, join_s: float) -> bool:
            engine.load_adapter(tiny_adapters["a0"], "late")
            return shutdown(drain_s, join_s)

        monkeypatch.setattr(engine, "shutdown", acknowledge)
    async with running(settings) as served:
        assert [a.adapter_id for a in served.app.engine.list_adapters()] == ["late"]


async def test_calls_wait_until_ids_are_restored(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, go = threading.Event(), threading.Event()

    def restore(state: StateFile, engine: object) -> Saved:
        at.set()
        assert go.wait(20)
        return Saved()

    monkeypatch.setattr(StateFile, "restore", restore)
    async with running(
        make_settings(tiny_base, state_file=tmp_path / "state.json"), load=False
    ) as served:
        loading = asyncio.ensure_future(served.app.load())
        await asyncio.to_thread(at.wait)
        assert not served.app.port  # nobody can call
        go.set()
        await loading
        assert served.app.port


async def test_a_corrupt_state_file_is_an_error_at_start(tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(StateFileError, match=r"state\.json is corrupt"):
        async with running(make_settings(tiny_base, state_file=tmp_path / "state.json")):
            raise AssertionError("must not start")


@pytest.mark.slow
def test_credentials_are_not_logged_even_for_debugging(tmp_path: Path) -> None:
    """In a process of its own, since logging is set up once for all."""
    script = """
import sys, threading
from pathlib import Path
from lora_runtime.adapters.sources.sources import resolve
from lora_runtime.errors import AdapterUnavailableError
from server.logs import configure
from tests.support.http import web_store
configure("json", "debug")
with web_store() as store:
    store.files = {f"/a/{name}": b"{}" for name in ("adapter_config.json", "adapter_model.safetensors")}
    resolve(store.url + "/a?sig=s3cret", Path(sys.argv[1]), max_bytes=100)
    assert store.fetched()
    store.failures = {"/a/tokenizer.json": 500}
    try:
        resolve(store.url + "/a?sig=s3cret", Path(sys.argv[1]), max_bytes=100)
    except AdapterUnavailableError:
        import logging; logging.exception("the load failed")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "NO_PROXY": "127.0.0.1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert "the load failed" in done.stderr
    assert "s3cret" not in done.stderr
