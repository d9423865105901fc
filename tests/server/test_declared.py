"""Declared adapters: the manifest, the watched directory, and the engine that follows both."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from structlog.testing import capture_logs

from lora_runtime import AdapterInfo, AdapterPolicy, RegisteredVersion, Registration
from server.declared import DeclaredState, DeclaredStatus
from server.declared.directory import WatchedDirectory
from server.declared.manifest import Manifest
from server.declared.places import Place
from server.declared.reconciler import Reconciler
from server.declared.workers import Workers

from ..support.declared import FakeEngine, broken, put_adapter, registration, replace, until

State = DeclaredState


class Bench:
    """A reconciler that looks when it is told to, on a clock of its own."""

    def __init__(self, root: Path) -> None:
        self.manifest, self.watched = root / "adapters.yaml", root / "watched"
        self.watched.mkdir()
        self.engine = FakeEngine()
        self.now = 0.0
        self.told: list[bool] = []
        """`is_awaited` reversed, whenever it was another when told."""
        self._made: list[Reconciler] = []
        self.declare()
        self.reconciler = self.make()

    def make(self, **options: Any) -> Reconciler:
        places: list[Place] = [
            Manifest(self.manifest, settle_s=3600),
            WatchedDirectory(self.watched, settle_s=3600),
        ]
        self._made.append(
            Reconciler(
                self.engine,
                places,
                reconcile_s=3600,
                load_threads=2,
                unload_wait_s=0,
                on_changed=self.note,
                clock=lambda: self.now,
                **options,
            )
        )
        return self._made[-1]

    def note(self) -> None:
        may_be_ready = not self.reconciler.is_awaited
        if may_be_ready != (self.told[-1] if self.told else False):
            self.told.append(may_be_ready)

    def close(self) -> None:
        for reconciler in self._made:
            reconciler.stop()

    def declare(self, *entries: dict) -> None:
        replace(self.manifest, yaml.safe_dump({"adapters": list(entries)}))

    def look(self, times: int = 1) -> list[DeclaredStatus]:
        """The status after looking; directories settle at the second look."""
        for _ in range(times):
            self.reconciler.reconcile()
            assert self.reconciler.wait_idle(20)
        return self.reconciler.status()

    def one(self, times: int = 1) -> DeclaredStatus:
        (status,) = self.look(times)
        return status

    def loads(self) -> list[str]:
        return [call[1] for call in self.engine.calls if call[0] == "load"]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def remote(name: str, **fields: Any) -> dict:
    return {"name": name, "source": f"s3://bucket/{name}"} | fields


# --- the manifest -----------------------------------------------------------------------------------


def test_manifest_entries_are_loaded_and_unloaded(bench: Bench) -> None:
    bench.declare(remote("a"), remote("b"))
    assert [(s.name, s.state, s.version) for s in bench.look()] == [
        ("a", State.READY, "version of s3://bucket/a"),
        ("b", State.READY, "version of s3://bucket/b"),
    ]
    bench.declare(remote("b", source="s3://bucket/b2"), remote("c"))
    assert [(s.name, s.source, s.state) for s in bench.look(2)] == [
        ("b", "s3://bucket/b2", State.READY),
        ("c", "s3://bucket/c", State.READY),
    ]
    assert bench.engine.loaded.keys() == {"b", "c"}
    assert sorted(bench.loads()) == ["a", "b", "b", "c"]


def test_nothing_is_done_twice(bench: Bench) -> None:
    bench.declare(remote("a"))
    put_adapter(bench.watched / "b")
    bench.look(5)
    assert sorted(bench.loads()) == ["a", "b"]


FORBIDDEN = {"allow_unknown_fields": False}


def test_policies_and_canaries_reach_the_engine(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    load = bench.engine.load_adapter

    def noted(*args: Any, **options: Any) -> AdapterInfo:
        seen.append(options)
        return load(*args, **options)

    monkeypatch.setattr(bench.engine, "load_adapter", noted)
    policy = {
        "weight": 2,
        "max_running": 3,
        "max_waiting": 4,
        "tokens_per_minute": 5,
        "pinned": True,
    }
    bench.declare(remote("a", canary_weight=0.25, policy=policy))
    bench.look()
    for changed in (
        remote("a"),
        remote("a", source="s3://bucket/b"),
        remote("a", source="s3://bucket/b", allow_unknown_fields=True),
    ):
        bench.declare(changed)
        bench.look()
    # A policy that is declared no longer ends; one that never was is left alone.
    assert seen == [
        {"canary_weight": 0.25, "policy": AdapterPolicy(2, 3, 4, 5, True), **FORBIDDEN},
        {"canary_weight": 0, "policy": AdapterPolicy(), **FORBIDDEN},
        {"canary_weight": 0, "policy": None, **FORBIDDEN},
        {"canary_weight": 0, "policy": None, "allow_unknown_fields": True},
    ]


def test_local_sources_are_relative_to_the_manifest_and_watched(
    bench: Bench, tmp_path: Path
) -> None:
    directory = put_adapter(tmp_path / "local")
    bench.declare({"name": "a", "source": "local"})
    assert bench.one().state is State.PENDING
    assert bench.one().version == "version of 1"
    replace(directory / "adapter_model.safetensors", "2")
    bench.look(2)
    assert bench.one().version == "version of 2"
    assert bench.one().source == str(directory)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("adapters: [", "is not YAML"),
        ("- a", "valid dictionary"),
        ("adapterz: []", "adapterz: Extra inputs are not permitted"),
        ("adapters: [{name: a}]", "adapter 'a': source: Field required"),
        ("adapters: [{source: s}]", "adapter number 1: name: Field required"),
        ("adapters: [3]", "adapter number 1: Input should be"),
        ("adapters: [{name: a, source: s, sauce: s}]", "adapter 'a': sauce: Extra inputs"),
        (
            "adapters: [{name: a, source: s, policy: {weight: 0}}]",
            "adapter 'a': policy.weight: Input should be greater",
        ),
        (
            "adapters: [{name: a, source: s, policy: {weight: .inf}}]",
            "adapter 'a': policy.weight: ",
        ),
        (
            "adapters: [{name: a, source: s, policy: {max_running: '3'}}]",
            "adapter 'a': policy.max_running: ",
        ),
        ("adapters: [{name: a, source: s, canary_weight: 1}]", "adapter 'a': canary_weight: "),
        ("adapters: [{name: '*', source: s}]", "adapter '*': name: "),
        ("adapters: [{name: a, source: s, source: t}]", "a key is given twice"),
        (None, "No such file"),
    ],
)
def test_a_broken_manifest_keeps_the_last_good_state(
    bench: Bench, text: str | None, problem: str
) -> None:
    bench.declare(remote("x"))
    bench.look()
    if text is None:
        bench.manifest.unlink()
    else:
        replace(bench.manifest, text)
    first, second = bench.look()
    assert (first.name, first.source, first.state) == ("", str(bench.manifest), State.FAILED)
    assert problem in first.error
    assert (second.name, second.state) == ("x", State.READY)
    assert bench.reconciler.ready
    bench.declare(remote("y"))
    bench.look()
    assert [s.name for s in bench.look()] == ["y"]


def test_without_a_manifest_at_start_nothing_is_ready(bench: Bench) -> None:
    bench.manifest.unlink()
    put_adapter(bench.watched / "a")
    bench.look(2)
    assert bench.engine.loaded.keys() == {"a"}
    assert not bench.reconciler.ready
    bench.declare()
    bench.look()
    assert bench.reconciler.ready


def test_an_empty_manifest_declares_nothing(bench: Bench) -> None:
    replace(bench.manifest, "")
    assert bench.look() == []
    assert bench.told == [True]


# --- the directory ----------------------------------------------------------------------------------


def test_subdirectories_are_adapters(bench: Bench) -> None:
    put_adapter(bench.watched / "a")
    put_adapter(bench.watched / ".hidden")
    (bench.watched / "empty").mkdir()
    (bench.watched / "file").write_text("")
    assert bench.one().state is State.PENDING
    assert bench.one().state is State.READY
    shutil.rmtree(bench.watched / "a")
    bench.look()
    assert bench.look() == []
    assert not bench.engine.loaded


def test_old_files_need_no_second_look(bench: Bench) -> None:
    put_adapter(bench.watched / "a")
    place = WatchedDirectory(bench.watched, settle_s=-10)
    assert place.read().adapters["a"].unsettled == ""


def test_a_half_copied_adapter_is_waited_for(bench: Bench) -> None:
    directory = put_adapter(bench.watched / "a")
    (directory / "adapter_model.safetensors").unlink()
    status = bench.one(3)
    assert (status.state, status.version) == (State.PENDING, "")
    assert "adapter_model.safetensors is missing" in status.error
    for content in ("1", "12", "123"):
        (directory / "adapter_model.safetensors").write_text(content)
        assert bench.one().error == "its files are still changing"
    assert not bench.loads()
    assert bench.one().version == "version of 123"


def test_shards_are_waited_for(bench: Bench) -> None:
    directory = put_adapter(bench.watched / "a")
    (directory / "adapter_model.safetensors").unlink()
    index = {"weight_map": {"x": "s1.safetensors", "y": "s2.safetensors"}}
    (directory / "adapter_model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "s1.safetensors").write_text("")
    assert "s2.safetensors is missing" in bench.one(3).error
    (directory / "s2.safetensors").write_text("")
    assert bench.one().error == "its files are still changing"
    assert not bench.loads()


def test_a_half_copied_directory_of_two_names(bench: Bench, tmp_path: Path) -> None:
    directory = put_adapter(tmp_path / "local")
    bench.declare({"name": "a", "source": "local"}, {"name": "b", "source": "local"})
    for content in ("1", "12", "123"):
        (directory / "adapter_model.safetensors").write_text(content)
        assert [s.error for s in bench.look()] == ["its files are still changing"] * 2
    assert [s.version for s in bench.look()] == ["version of 123"] * 2


def test_waiting_ends_as_a_failure(bench: Bench) -> None:
    (put_adapter(bench.watched / "a") / "adapter_model.safetensors").unlink()
    bench.look()
    bench.now = 61
    assert bench.one().state is State.FAILED
    replace(bench.watched / "a" / "adapter_model.safetensors", "1")
    assert bench.one(2).state is State.READY


def test_a_failure_while_files_change_is_none(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = put_adapter(bench.watched / "a")
    load = bench.engine.load_adapter

    def torn(*args: object, **options: object) -> None:
        monkeypatch.undo()
        replace(directory / "adapter_model.safetensors", "2")
        raise broken("half a file")

    monkeypatch.setattr(bench.engine, "load_adapter", torn)
    assert bench.one(2).state is State.PENDING
    assert bench.engine.load_adapter == load
    assert bench.one(2).version == "version of 2"


def test_volumes_that_are_swapped(bench: Bench) -> None:
    """Kubernetes: names are links through ..data, which is replaced at once by a link to another
    directory."""
    root = bench.watched
    put_adapter(root / "..2026_01" / "a", "1")
    put_adapter(root / "..2026_02" / "a", "2")
    (root / "..data").symlink_to("..2026_01")
    (root / "a").symlink_to("..data/a")
    assert bench.one(2).version == "version of 1"
    (root / "..new").symlink_to("..2026_02")
    (root / "..new").replace(root / "..data")
    shutil.rmtree(root / "..2026_01")
    status = bench.one(2)
    assert (status.version, status.source) == ("version of 2", str(root / "a"))


def test_a_directory_that_is_gone_keeps_its_adapters(bench: Bench) -> None:
    put_adapter(bench.watched / "a")
    bench.look(2)
    bench.watched.rename(bench.watched.with_name("away"))
    first, second = bench.look(2)
    assert (first.name, first.source, first.state) == ("", str(bench.watched), State.FAILED)
    assert second.state is State.READY
    assert bench.engine.loaded.keys() == {"a"}


def test_a_name_that_cannot_be_one(bench: Bench) -> None:
    put_adapter(bench.watched / "a")
    put_adapter(bench.watched / "b\n")
    first, second = bench.look(2)
    assert "'b\\n' cannot be an adapter's name" in first.error
    assert (second.name, second.state) == ("a", State.READY)


# --- the reconciler ---------------------------------------------------------------------------------


def test_one_failure_blocks_nobody(bench: Bench) -> None:
    bench.engine.broken["s3://bucket/a"] = broken("no such bucket")
    bench.declare(remote("a"), remote("b"), remote("c"))
    a, b, c = bench.look()
    assert (a.state, a.error, a.version) == (State.FAILED, "no such bucket", "")
    assert (b.state, c.state) == (State.READY, State.READY)
    assert not bench.reconciler.ready
    assert bench.told == []


def test_failures_are_retried_less_and_less_often(bench: Bench) -> None:
    bench.engine.broken["s3://bucket/a"] = broken()
    bench.declare(remote("a"))
    times = []
    for second in range(100):
        bench.now = float(second)
        before = len(bench.loads())
        bench.look()
        times += [second] * (len(bench.loads()) - before)
    assert times == [0, 1, 3, 7, 15, 31, 63]
    bench.declare(remote("a", source="s3://bucket/better"))  # something else is tried at once
    assert bench.one().state is State.READY


def test_the_longest_wait(bench: Bench) -> None:
    bench.engine.broken["s3://bucket/a"] = broken()
    bench.declare(remote("a"))
    for _ in range(20):
        bench.now += 1000
        bench.look()
    bench.now += 300
    before = len(bench.loads())
    bench.look()
    assert len(bench.loads()) == before + 1


def test_a_failed_update_leaves_the_older_version(bench: Bench) -> None:
    bench.declare(remote("a"))
    bench.look()
    bench.engine.broken["s3://bucket/a2"] = broken("too large")
    bench.declare(remote("a", source="s3://bucket/a2"))
    status = bench.one()
    assert (status.state, status.error, status.version) == (
        State.FAILED,
        "too large",
        "version of s3://bucket/a",
    )
    assert bench.reconciler.ready
    assert bench.told == [True]
    bench.declare(remote("a"))
    assert (bench.one().state, bench.one().error) == (State.READY, "")


def test_errors_of_any_kind_are_shown_without_credentials(bench: Bench) -> None:
    source = "https://user:secret@host/a?sig=secret"
    bench.engine.broken[source] = RuntimeError(f"cannot open {source}")
    bench.declare({"name": "a", "source": source})
    status = bench.one()
    assert (status.source, status.error) == (
        "https://host/a",
        "RuntimeError: cannot open https://host/a",
    )


def test_an_adapter_in_use_is_waited_for(bench: Bench) -> None:
    bench.declare(remote("a"), remote("b"))
    bench.look()
    bench.engine.in_use = {"a"}
    bench.declare()
    (a,) = bench.look(2)
    assert (a.name, a.state) == ("a", State.REMOVING)
    assert "in use" in a.error
    assert bench.engine.loaded.keys() == {"a"}
    assert bench.reconciler.ready
    bench.engine.in_use = set()
    assert bench.look(2) == []
    assert not bench.engine.loaded


def test_declared_again_while_it_is_removed(bench: Bench) -> None:
    bench.declare(remote("a"))
    bench.look()
    bench.engine.in_use = {"a"}
    bench.declare()
    bench.look()
    bench.declare(remote("a"))
    assert bench.one().state is State.READY
    assert bench.loads() == ["a"]


def test_a_slow_load_holds_up_nobody(bench: Bench) -> None:
    gate = bench.engine.gates["s3://bucket/slow"] = threading.Event()
    bench.declare(remote("slow"))
    bench.reconciler.reconcile()
    bench.declare(remote("slow"), remote("b"))
    done = threading.Event()
    load = bench.engine.load_adapter

    def note(source: str, *args: Any, **options: Any) -> AdapterInfo:
        info = load(source, *args, **options)
        if source.endswith("/b"):
            done.set()
        return info

    engine: Any = bench.engine  # whose load is a method
    engine.load_adapter = note
    bench.reconciler.reconcile()
    assert done.wait(20)
    slow = bench.reconciler.status()[1]
    assert (slow.name, slow.state) == ("slow", State.LOADING)
    gate.set()
    assert bench.look()[1].state is State.READY


def test_only_what_was_declared_is_taken_away(bench: Bench) -> None:
    bench.engine.register(registration("mine"))
    bench.engine.broken["s3://bucket/mine"] = broken()
    bench.declare(remote("mine"))
    bench.look()
    bench.declare()
    assert bench.look(2) == []
    assert bench.engine.loaded.keys() == {"mine"}
    assert not [call for call in bench.engine.calls if call[0] == "unload"]


def test_what_somebody_else_unloads_comes_back(bench: Bench) -> None:
    bench.declare(remote("a"))
    bench.look()
    bench.engine.unload_adapter("a")
    assert bench.one().state is State.READY
    assert bench.engine.loaded.keys() == {"a"}
    bench.engine.unload_adapter("a")
    bench.declare()
    assert bench.look(2) == []


def test_a_name_declared_twice(bench: Bench) -> None:
    bench.declare(remote("a"), remote("b"))
    bench.look()
    put_adapter(bench.watched / "a")
    bench.declare(
        remote("a"),
        remote("b", source="s3://x"),
        remote("b", source="s3://y"),
        remote("c"),
        remote("c"),
    )
    statuses = bench.look(2)
    assert [(s.name, s.state, s.version) for s in statuses] == [
        ("a", State.FAILED, "version of s3://bucket/a"),
        ("b", State.FAILED, "version of s3://bucket/b"),
        ("c", State.FAILED, ""),
    ]
    assert {s.error for s in statuses} == {"the name is declared more than once"}
    assert not bench.reconciler.ready
    shutil.rmtree(bench.watched / "a")
    bench.declare(remote("a"))
    bench.look(2)
    assert bench.reconciler.status()[0].state is State.READY
    assert bench.engine.loaded.keys() == {"a"}


def test_a_name_of_the_settings(bench: Bench) -> None:
    bench.reconciler = bench.make(static_names=["a"])
    bench.declare(remote("a"))
    assert (bench.one().state, bench.loads()) == (State.FAILED, [])
    bench.declare()
    assert bench.look(2) == []


def test_readiness_is_told_once_per_change(bench: Bench) -> None:
    bench.look()
    bench.engine.broken["s3://bucket/a"] = broken()
    bench.declare(remote("a"))
    bench.look(3)
    bench.declare()
    bench.look(3)
    assert bench.told == [True, False, True]


def test_what_an_earlier_process_declared_goes_once_all_is_known(bench: Bench) -> None:
    for name in ("gone", "kept"):
        bench.engine.register(registration(name, f"s3://bucket/{name}"))
    bench.manifest.unlink()
    bench.reconciler.adopt(bench.engine.registrations())
    bench.look(2)
    assert bench.engine.loaded.keys() == {"gone", "kept"}
    bench.declare(remote("kept"))
    bench.look(2)
    assert bench.engine.loaded.keys() == {"kept"}
    assert bench.loads() == ["kept"]


def test_a_store_outage_at_a_restart(bench: Bench, tmp_path: Path) -> None:
    """What an earlier process fetched serves, as long as its copy is there and nothing else is
    declared."""
    for name in ("here", "moved", "swept"):
        source, cached = f"s3://bucket/{name}", tmp_path / name
        bench.engine.register(
            Registration(name, (RegisteredVersion(f"old {name}", source, str(cached)),))
        )
        bench.engine.broken[source] = broken("no answer")
    bench.engine.broken["s3://bucket/moved2"] = broken("no answer")
    (tmp_path / "here").mkdir()
    (tmp_path / "moved").mkdir()
    bench.reconciler.adopt(bench.engine.registrations())
    bench.declare(remote("here"), remote("moved", source="s3://bucket/moved2"), remote("swept"))
    assert [(s.state, s.version) for s in bench.look()] == [
        (State.FAILED, f"old {name}") for name in ("here", "moved", "swept")
    ]
    assert not bench.reconciler.ready
    bench.declare(remote("here"), remote("moved", source="s3://bucket/moved2"))
    bench.look(2)
    assert not bench.reconciler.ready
    bench.declare(remote("here"))
    bench.look(2)
    assert bench.reconciler.ready
    bench.engine.unload_adapter("here")
    bench.look()
    assert not bench.reconciler.ready


def test_a_canary_in_a_store_outage_at_a_restart(bench: Bench, tmp_path: Path) -> None:
    current = RegisteredVersion("old", "s3://bucket/a", str(tmp_path))
    canary = RegisteredVersion("new", "s3://bucket/a2", str(tmp_path))
    bench.engine.register(Registration("a", (current,), canary, 0.5))
    bench.engine.broken["s3://bucket/a2"] = broken("no answer")
    bench.reconciler.adopt(bench.engine.registrations())
    bench.declare(remote("a", source="s3://bucket/a2", canary_weight=0.5))
    assert (bench.one().state, bench.one().version, bench.reconciler.ready) == (
        State.FAILED,
        "old",
        True,
    )


def test_files_are_looked_at_without_the_lock(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look_at(tried: object) -> bool:
        asking = threading.Thread(target=lambda: seen.append(bench.reconciler.status()))
        asking.start()
        asking.join(20)
        return False

    monkeypatch.setattr("server.declared.reconciler.files_changed", look_at)
    bench.engine.broken["s3://bucket/a"] = broken()
    bench.declare(remote("a"))
    assert bench.one().state is State.FAILED
    assert [s.state for s in seen[0]] == [State.LOADING]


def test_since_is_when_the_state_began(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1000.0)
    bench.declare(remote("a"))
    bench.look()
    monkeypatch.setattr("time.time", lambda: 2000.0)
    assert bench.one().since == 1000.0


def test_the_thread_looks_by_itself(tmp_path: Path) -> None:
    engine = FakeEngine()
    put_adapter(tmp_path / "a")
    places: list = [WatchedDirectory(tmp_path, settle_s=3600)]
    reconciler = Reconciler(engine, places, reconcile_s=0.01, load_threads=1, unload_wait_s=0)
    reconciler.start()
    until(lambda: reconciler.ready)
    reconciler.stop()
    assert engine.loaded.keys() == {"a"}


# --- what the log says ------------------------------------------------------------------------------


def lines(logs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Each line about a declared adapter: what happened, and why."""
    start = "declared adapter "
    return [
        (log["event"].removeprefix(start), log.get("error", ""))
        for log in logs
        if log["event"].startswith(start) and log["log_level"] != "debug"
    ]


def test_a_missing_directory_is_said_once_with_its_reason(bench: Bench, tmp_path: Path) -> None:
    bench.declare({"name": "a", "source": "local"})
    reason = "the directory cannot be read: No such file or directory"
    with capture_logs() as logs:
        bench.look(3)
        bench.now = 61
        bench.look(3)
    assert lines(logs) == [("pending", reason), ("failed", reason)]
    for line in (log for log in logs if log.get("error")):
        assert (line["adapter"], line["source"]) == ("a", str(tmp_path / "local"))
    assert [log["log_level"] for log in logs] == ["info", "warning"]
    with capture_logs() as logs:
        (tmp_path / "local").mkdir()
        bench.look(2)
        put_adapter(tmp_path / "local")
        bench.look(4)
    assert lines(logs) == [
        ("failed", "adapter_config.json is missing (pickled weights are never read)"),
        ("failed", "its files are still changing"),
        ("ready", ""),
    ]


def test_a_failure_is_said_again_for_another_reason_only(bench: Bench) -> None:
    source = "https://user:secret@host/a?sig=secret"
    bench.declare({"name": "a", "source": source})
    with capture_logs() as logs:
        for text in ("no answer", "no answer", f"no such file {source}", "no answer"):
            bench.engine.broken[source] = RuntimeError(text)
            bench.now += 1000
            bench.look(2)
        bench.engine.broken = {}
        bench.now += 1000
        bench.look(3)
        bench.declare()
        bench.look(3)
    assert lines(logs) == [
        ("failed", "RuntimeError: no answer"),
        ("failed", "RuntimeError: no such file https://host/a"),
        ("failed", "RuntimeError: no answer"),
        ("ready", ""),
        ("gone", ""),
    ]
    said = [log for log in logs if log["event"].startswith("declared adapter")]
    assert {log["source"] for log in said if "source" in log} == {"https://host/a"}
    assert "declared adapter loading" in {log["event"] for log in said}
    assert "secret" not in str(said)


def test_another_version_is_said(bench: Bench) -> None:
    bench.declare(remote("a"))
    bench.look(2)
    bench.declare(remote("a", source="s3://bucket/b"))
    with capture_logs() as logs:
        bench.look(3)
    assert lines(logs) == [("ready", "")]


# --- what the server waits for ----------------------------------------------------------------------


def awaited(bench: Bench) -> list[str]:
    assert bench.reconciler.is_awaited == bool(bench.reconciler.awaited())
    return [s.name or Path(s.source).name for s in bench.reconciler.awaited()]


def test_a_first_start_waits_for_everything(bench: Bench) -> None:
    assert [s.error for s in bench.reconciler.awaited()] == ["not looked at yet"]
    bench.engine.broken["s3://bucket/a"] = broken()
    bench.declare(remote("a"), remote("b"), remote("c"), {"name": "local", "source": "gone"})
    bench.look()
    assert awaited(bench) == ["a", "local"]
    bench.now = 1000
    bench.look()
    assert awaited(bench) == ["a", "local"]
    bench.declare(remote("b"), remote("c"))
    bench.look()
    assert awaited(bench) == []


def test_a_first_start_waits_for_a_broken_manifest(bench: Bench) -> None:
    replace(bench.manifest, "adapters: [")
    bench.look()
    assert awaited(bench) == ["adapters.yaml"]
    assert "is not YAML" in bench.reconciler.awaited()[0].error
    bench.declare()
    bench.look()
    replace(bench.manifest, "adapters: [")
    bench.look()
    assert awaited(bench) == []


def restarted(bench: Bench, tmp_path: Path, *served: str) -> None:
    """The process after one that was ready and served these from local directories."""
    for name in served:
        bench.engine.register(registration(name, str(tmp_path / name)))
    bench.reconciler.adopt(bench.engine.registrations(), was_ready=True)


def test_a_restart_waits_until_what_was_served_is_tried(bench: Bench, tmp_path: Path) -> None:
    gate = bench.engine.gates[str(tmp_path / "kept")] = threading.Event()
    for name in ("kept", "worse"):
        put_adapter(tmp_path / name)
    bench.engine.broken = {str(tmp_path / "worse"): broken(), "s3://bucket/never": broken()}
    restarted(bench, tmp_path, "gone", "kept", "worse")
    local = [{"name": name, "source": name} for name in ("gone", "kept", "new", "worse")]
    bench.declare(*local, remote("never"))
    assert [s.error for s in bench.reconciler.awaited()] == ["not looked at yet"]
    bench.reconciler.reconcile()
    bench.reconciler.reconcile()
    until(lambda: bench.reconciler.status()[-1].state is State.FAILED)
    # "gone" lost its directory, "never" never served, "new" and its directory may come.
    assert awaited(bench) == ["kept"]
    gate.set()
    bench.look()
    assert awaited(bench) == []
    assert not bench.reconciler.ready


def test_a_restart_with_a_broken_manifest(bench: Bench, tmp_path: Path) -> None:
    restarted(bench, tmp_path, "a")
    replace(bench.manifest, "adapters: [")
    bench.look()
    assert awaited(bench) == []
    assert bench.engine.loaded.keys() == {"a"}


class Panic(BaseException):
    """No Exception, as that of a library that panics."""


@pytest.mark.parametrize("error", [RuntimeError("a failure"), Panic("a failure")])
def test_a_load_that_fails_as_none_should(
    bench: Bench, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its entry is tried again, and its thread has the others."""
    bench.engine.broken["s3://bucket/one"] = error  # type: ignore[assignment]
    bench.declare(remote("one"), remote("two"))
    for _ in range(3):
        bench.now += 1000
        one, two = bench.look()
        assert (one.state, two.state) == (State.FAILED, State.READY)
        assert one.error == f"{type(error).__name__}: a failure"
    del bench.engine.broken["s3://bucket/one"]
    bench.now += 1000
    assert [s.state for s in bench.look()] == [State.READY, State.READY]

    def unload(*args: Any) -> None:
        raise error

    unload_adapter = bench.engine.unload_adapter
    monkeypatch.setattr(bench.engine, "unload_adapter", unload)
    bench.declare()
    one, two = bench.look()
    assert one.state is two.state is State.REMOVING
    monkeypatch.setattr(bench.engine, "unload_adapter", unload_adapter)
    bench.now += 1000
    bench.look()
    assert bench.look() == []


def test_work_that_raises_leaves_the_thread_to_others() -> None:
    workers, done = Workers("test", 1), threading.Event()

    def panics() -> None:
        raise Panic

    workers.submit(panics)
    workers.submit(done.set)
    assert done.wait(20)
    workers.stop()
