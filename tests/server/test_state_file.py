"""Registrations over a restart: what is written, when, and what comes back beside what is declared."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lora_runtime import (
    AdapterError,
    AdapterPolicy,
    AdapterState,
    Engine,
    RegisteredVersion,
    Registration,
    Request,
)
from server.declared import DeclaredAdapters, StateFileError
from server.declared.state_file import Saved, StateFile

from ..support.declared import FakeEngine, put_adapter, registration, replace, until

FULL = Registration(
    "full",
    (
        RegisteredVersion("v2", "hf://org/a", "/cache/2"),
        RegisteredVersion("v1", "/data/a", "/data/a", ("/data", "/more")),
    ),
    canary=RegisteredVersion("v3", "s3://b/a", "/cache/3", allow_unknown_fields=True),
    canary_weight=0.25,
    policy=AdapterPolicy(2, 3, 4, 5, True),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "adapters.json"


@pytest.fixture
def start(path: Path) -> Iterator[Callable[..., DeclaredAdapters]]:
    """Starts declared adapters with the state file; those before are stopped first, as a process
    that ends."""
    started: list[DeclaredAdapters] = []

    def start(engine: FakeEngine | Engine, **options: Any) -> DeclaredAdapters:
        stop()
        started.append(
            DeclaredAdapters(engine, state_file=path, **({"reconcile_s": 0.01} | options))
        )
        started[-1].restore()
        started[-1].start()
        return started[-1]

    def stop() -> None:
        while started:
            started.pop().stop()

    yield start
    stop()


def follow(engine: FakeEngine, path: Path) -> StateFile:
    state = StateFile(path, delay_s=0.01)
    state.start(engine, dict)
    return state


def test_registrations_come_back(path: Path) -> None:
    engine, again = FakeEngine(), FakeEngine()
    state = follow(engine, path)
    for one in (FULL, registration("b")):
        engine.register(one)
    state.stop()
    StateFile(path).restore(again)
    assert again.registrations() == [registration("b"), FULL]


def test_changes_are_written_while_the_server_runs(path: Path) -> None:
    engine = FakeEngine()
    state = follow(engine, path)
    engine.register(registration("a"))
    until(lambda: [r.adapter_id for r in state.read().adapters] == ["a"])
    engine.unload_adapter("a")
    until(lambda: not state.read().adapters)
    state.stop()


def test_only_the_owner_reads_it(path: Path) -> None:
    follow(FakeEngine(), path).stop()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_crash_while_writing_keeps_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine()
    engine.register(FULL)
    follow(engine, path).stop()

    def crash(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("server.declared.state_file.json.dump", crash)
    with pytest.raises(StateFileError, match=r"adapters\.json cannot be written: No space left"):
        follow(FakeEngine(), path)
    monkeypatch.undo()
    assert StateFile(path).read().adapters == (FULL,)
    follow(engine, path).stop()  # what the crash left is no hindrance
    assert list(path.parent.iterdir()) == [path]


def test_writing_is_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.declared.state_file._RETRY_S", 0.01)
    engine = FakeEngine()
    failures: list[Saved] = []
    state = follow(engine, path)
    write = state._write

    def failing(saved: Saved) -> None:
        if len(failures) < 3:
            failures.append(saved)
            raise OSError(28, "No space left on device")
        write(saved)

    monkeypatch.setattr(state, "_write", failing)
    engine.register(FULL)
    until(lambda: state.read().adapters == (FULL,))
    state.stop()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"format": 2}',
        '{"adapters": [{"adapter_id": "a", "versions": []}]}',
        '{"adapters": [{"adapter_id": "a", "versions": [], "more": 1}]}',
        '{"adapters": [{"adapter_id": "a", "versions": [], "policy": {"weight": -1}}]}',
        '{"secret": "s3cret"}',
        b"\xff\xfe",
    ],
)
def test_a_corrupt_file_stops_the_start(
    path: Path, content: str | bytes, start: Callable[..., DeclaredAdapters]
) -> None:
    path.parent.mkdir()
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(data)
    with pytest.raises(StateFileError, match=f"state file {path} is corrupt") as caught:
        start(FakeEngine())
    assert "s3cret" not in str(caught.value)
    assert caught.value.__context__ is None
    assert path.read_bytes() == data


def test_an_unreadable_file_stops_the_start(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(StateFileError, match="cannot be read"):
        StateFile(path).restore(FakeEngine())


def test_what_the_engine_refuses_stops_the_start(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine()
    engine.register(FULL)
    follow(engine, path).stop()

    def refuse(registration: Registration) -> None:
        raise AdapterError("adapter id 'full' is too long")

    again = FakeEngine()
    monkeypatch.setattr(again, "register", refuse)
    with pytest.raises(
        StateFileError, match=rf"{path}: adapter 'full': adapter id 'full' is too long"
    ):
        StateFile(path).restore(again)


def test_a_file_of_an_older_version(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"format": 1, "declared": {"a": false}, "adapters": []}')
    assert StateFile(path).read() == Saved(declared={"a": False}, was_ready=False)


# --- beside what is declared ------------------------------------------------------------------------


def test_declared_adapters_win_over_the_file(
    path: Path, tmp_path: Path, start: Callable[..., DeclaredAdapters]
) -> None:
    manifest = tmp_path / "adapters.yaml"
    replace(
        manifest,
        yaml.safe_dump(
            {
                "adapters": [
                    {"name": "a", "source": "s3://b/a"},
                    {"name": "b", "source": "s3://b/b", "policy": {"weight": 2}},
                ]
            }
        ),
    )
    first = FakeEngine()
    declared = start(first, manifest=manifest)
    until(lambda: declared.ready)
    first.register(registration("mine"))

    replace(manifest, yaml.safe_dump({"adapters": [{"name": "b", "source": "s3://b/new"}]}))
    second = FakeEngine()
    declared = start(second, manifest=manifest)
    until(lambda: second.loaded.keys() == {"b", "mine"} and declared.ready)
    assert second.loaded["b"].versions[0].source == "s3://b/new"
    assert second.loaded["b"].policy == AdapterPolicy()  # the older manifest's is not kept


def test_a_broken_manifest_at_start_takes_nothing_away(
    path: Path, tmp_path: Path, start: Callable[..., DeclaredAdapters]
) -> None:
    manifest = tmp_path / "adapters.yaml"
    replace(manifest, yaml.safe_dump({"adapters": [{"name": "a", "source": "s3://b/a"}]}))
    declared = start(FakeEngine(), manifest=manifest)
    until(lambda: declared.ready)
    replace(manifest, "adapters: [")
    for _ in range(2):  # and is remembered as declared
        engine = FakeEngine()
        declared = start(engine, manifest=manifest)
        until(lambda: declared.status()[:1] and "is not YAML" in declared.status()[0].error)  # noqa: B023
        assert engine.loaded.keys() == {"a"}
        assert not declared.ready
    replace(manifest, "adapters: []")
    until(lambda: not engine.loaded)


def test_a_restart_of_one_that_was_ready_asks_less(
    path: Path, tmp_path: Path, start: Callable[..., DeclaredAdapters]
) -> None:
    manifest = tmp_path / "adapters.yaml"
    broken_one = {"name": "b", "source": str(tmp_path / "gone")}
    entries = [{"name": "a", "source": "s3://b/a"}, broken_one]
    replace(manifest, yaml.safe_dump({"adapters": entries}))

    def awaited() -> list[str]:
        return [status.name for status in declared.awaited()]

    for _ in range(2):  # as long as no process was ready, all is waited for
        declared = start(FakeEngine(), manifest=manifest)
        until(lambda: awaited() == ["b"])
        assert not StateFile(path).read().was_ready
    declared.note_ready()  # without it, in the end
    until(lambda: StateFile(path).read().was_ready)
    for _ in range(2):  # also once more, should the process end before it is ready
        declared = start(FakeEngine(), manifest=manifest)
        until(lambda: not declared.is_awaited)  # noqa: B023
        assert not declared.ready
        assert StateFile(path).read().was_ready


def test_names_of_the_settings_are_not_remembered_for_good(
    path: Path, start: Callable[..., DeclaredAdapters], tmp_path: Path
) -> None:
    engine = FakeEngine()
    engine.load_adapter("s3://b/flag", "flag")
    start(engine, static_names=["flag"], directory=tmp_path)
    again = FakeEngine()
    again.load_adapter("s3://b/flag2", "flag")
    start(again, static_names=["flag"], directory=tmp_path)
    assert again.loaded["flag"].versions[0].source == "s3://b/flag2"
    last = FakeEngine()
    declared = start(last, directory=tmp_path)
    until(lambda: declared.ready and not last.loaded)


# --- the engine itself ------------------------------------------------------------------------------


def test_a_restart_of_the_engine(
    make_engine: Callable[..., Engine],
    tiny_adapters: dict[str, Path],
    start: Callable[..., DeclaredAdapters],
    tmp_path: Path,
) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    (watched / "declared").symlink_to(tiny_adapters["a0"])
    first = make_engine()
    declared = start(first, directory=watched)
    until(lambda: declared.ready and declared.status())
    first.load_adapter(tiny_adapters["a1"], "mine", policy=AdapterPolicy(weight=3))
    first.load_adapter(tiny_adapters["a2"], "mine")
    first.load_adapter(tiny_adapters["a3"], "mine", canary_weight=0.5)
    expected = [
        first.generate(Request(prompt="hi", adapter_id=name)).text for name in ("declared", "mine")
    ]
    before = first.get_adapter("mine")

    second = make_engine()
    declared = start(second, directory=watched)
    after = second.get_adapter("mine")
    assert after.state is AdapterState.COLD
    assert (after.version, after.older_versions, after.canary) == (
        before.version,
        before.older_versions,
        before.canary,
    )
    assert after.policy == AdapterPolicy(weight=3)
    until(lambda: declared.ready)
    second.set_canary("mine", 0)
    assert second.generate(Request(prompt="hi", adapter_id="declared")).text == expected[0]
    assert (
        second.generate(Request(prompt="hi", adapter_id="mine")).adapter_version == before.version
    )
    second.rollback_adapter("mine")
    assert second.get_adapter("mine").version == before.older_versions[0]


def test_the_engine_follows_a_directory(
    make_engine: Callable[..., Engine],
    tiny_adapters: dict[str, Path],
    start: Callable[..., DeclaredAdapters],
    tmp_path: Path,
) -> None:
    engine = make_engine()
    link = tmp_path / "a"
    link.symlink_to(tiny_adapters["a0"])
    broken = put_adapter(tmp_path / "broken")
    declared = start(engine, directory=tmp_path)
    until(lambda: [s.state for s in declared.status()] == ["ready", "failed"])
    assert (
        "adapter_config.json" in declared.status()[1].error
        or "peft_type" in declared.status()[1].error
    )
    version = declared.status()[0].version
    assert engine.get_adapter("a").version == version
    (tmp_path / "new").symlink_to(tiny_adapters["a1"])
    (tmp_path / "new").replace(link)
    (broken / "adapter_config.json").unlink()
    until(lambda: declared.ready and declared.status()[0].version not in ("", version))
    link.unlink()
    until(lambda: not engine.list_adapters())


def test_a_canary_in_the_manifest(
    make_engine: Callable[..., Engine],
    tiny_adapters: dict[str, Path],
    start: Callable[..., DeclaredAdapters],
    tmp_path: Path,
) -> None:
    """One version, then another beside it with a growing share, over a restart, then that one
    alone."""
    manifest = tmp_path / "adapters.yaml"

    def declare(source: str, weight: float) -> None:
        entry = {"name": "a", "source": str(tiny_adapters[source]), "canary_weight": weight}
        replace(manifest, yaml.safe_dump({"adapters": [entry]}))

    def share(engine: Engine) -> float:
        canary = engine.get_adapter("a").canary
        return canary.weight if canary else 0

    engine = make_engine()
    declare("a0", 0)
    declared = start(engine, manifest=manifest)
    until(lambda: declared.ready)
    old = engine.get_adapter("a").version
    for weight in (0.1, 0.5):
        declare("a1", weight)
        until(lambda: share(engine) == weight)  # noqa: B023
    assert engine.get_adapter("a").version == old

    engine = make_engine()
    declared = start(engine, manifest=manifest)
    until(lambda: declared.ready)
    assert (engine.get_adapter("a").version, share(engine)) == (old, 0.5)
    declare("a1", 0)
    until(lambda: share(engine) == 0 and engine.get_adapter("a").version != old)
    assert engine.get_adapter("a").older_versions == (old,)


def test_the_status_shows_what_calls_have_changed(
    make_engine: Callable[..., Engine],
    tiny_adapters: dict[str, Path],
    start: Callable[..., DeclaredAdapters],
    tmp_path: Path,
) -> None:
    engine = make_engine()
    (tmp_path / "a").symlink_to(tiny_adapters["a0"])
    declared = start(engine, directory=tmp_path)
    until(lambda: declared.ready and declared.status())
    first = declared.status()[0].version
    second = engine.load_adapter(tiny_adapters["a1"], "a").version
    assert declared.status()[0].version == second != first
    engine.rollback_adapter("a")
    assert declared.status()[0].version == first
