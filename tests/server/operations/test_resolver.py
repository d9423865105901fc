"""The resolver: where it looks for names, how often, and for whom."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from lora_runtime import (
    AdapterCapacityError,
    AdapterError,
    AdapterExistsError,
    AdapterMissingError,
    AdapterUnavailableError,
    BaseMismatchError,
    CallerLimitError,
    EngineStoppedError,
)
from server.auth.tokens import ANYONE, Caller
from server.locations import Locations
from server.operations import resolver as resolver_module
from server.operations.resolver import Resolver
from server.threads import Threads

ALICE, BOB = (
    Caller.model_construct(name=name, token_sha256="", adapters=("*",)) for name in ("alice", "bob")
)


class FakeEngine:
    """Engine that knows what it has loaded, of what is named in `there`."""

    def __init__(self, *there: str) -> None:
        self.there = set(there)
        self.loads: list[str] = []
        self.ids: tuple[str, ...] = ()
        self.go_on = threading.Event()
        self.go_on.set()
        self.error: Exception = AdapterMissingError("adapter_config.json is missing")

    def adapter_ids(self) -> tuple[str, ...]:
        return self.ids

    def has_adapter(self, adapter_id: str) -> bool:
        return adapter_id in self.ids

    def load_adapter(self, source: str | Path, adapter_id: str, replace: bool, **_: Any) -> None:
        self.loads.append(str(source))
        assert self.go_on.wait(30)
        assert not replace
        if adapter_id in self.ids:
            raise AdapterExistsError(adapter_id)
        if adapter_id not in self.there:
            raise self.error
        self.ids = (*self.ids, adapter_id)


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads()
    yield threads
    threads.close()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def make(
    engine: FakeEngine, threads: Threads, clock: Clock | None = None, root: Path | None = None
) -> Resolver:
    locations = Locations([root] if root else [], [] if root else ["s3://bucket/adapters"])
    return Resolver(lambda: engine, locations, threads, clock=clock or Clock())  # type: ignore[arg-type, return-value]


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


async def test_concurrent_requests_load_once(threads: Threads) -> None:
    engine = FakeEngine("sql")
    engine.go_on.clear()
    resolver = make(engine, threads)
    asked = [asyncio.create_task(resolver.bring_in("sql", who)) for who in (ALICE, BOB) * 30]
    await until(lambda: engine.loads)
    asked[0].cancel()  # the others' load goes on without whom it was begun for
    engine.go_on.set()
    await asyncio.gather(*asked[1:])
    await resolver.bring_in("sql", ALICE)
    assert (engine.loads, engine.ids) == (["s3://bucket/adapters/sql"], ("sql",))


async def test_what_is_not_there_is_remembered_for_a_while(threads: Threads) -> None:
    engine, clock = FakeEngine(), Clock()
    resolver = make(engine, threads, clock)
    for _ in range(3):
        await resolver.bring_in("sql", ALICE)
    assert len(engine.loads) == 1
    engine.there.add("sql")
    clock.now = 11
    await resolver.bring_in("sql", ALICE)
    assert engine.ids == ("sql",)


async def test_what_is_remembered_is_bounded(threads: Threads) -> None:
    engine = FakeEngine()
    resolver = make(engine, threads)
    for i in range(1100):
        await resolver.bring_in(f"name-{i}", ALICE)
    assert len(resolver._failed) == 1024
    assert not resolver._running
    assert not resolver._waiting


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../root/a1",
        "a/../../a1",
        "/etc",
        "a//b",
        "a/",
        ".hidden",
        "a/.hidden",
        "a\\b",
        "a%2fb",
        "a b",
        "a\nb",
        "a\0b",
        "a@refs/pr/7",
        "a?b",
        "a#b",
        "s3://other/a",
        "a/b/c/d/e",
        "x" * 257,
    ],
)
async def test_only_plain_names_are_looked_for(threads: Threads, name: str) -> None:
    engine = FakeEngine(name)
    await make(engine, threads).bring_in(name, ALICE)
    assert not engine.loads


async def test_names_that_are_too_long_for_a_file_are_not_found(
    threads: Threads, tmp_path: Path
) -> None:
    engine = FakeEngine()
    resolver = make(engine, threads, root=tmp_path)
    for name in ("x" * 256, "\u65e5" * 200):
        await resolver.bring_in(name, ALICE)
    assert not engine.loads


async def test_a_directory_that_may_not_be_read_is_not_taken_for_none(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", denied)
    with pytest.raises(AdapterError, match="found but could not be loaded"):
        await make(FakeEngine(), threads, root=tmp_path).bring_in("sql", ALICE)


async def test_a_declared_name_is_not_taken_from_elsewhere(threads: Threads) -> None:
    engine = FakeEngine("sql", "chat")
    resolver = Resolver(
        lambda: engine,  # type: ignore[arg-type, return-value]
        Locations([], ["s3://bucket"]),
        threads,
        declared=lambda: ["sql"],
    )
    for name in ("sql", "chat"):
        await resolver.bring_in(name, ALICE)
    assert engine.ids == ("chat",)


async def test_a_flood_of_names_delays_nobody_else(threads: Threads) -> None:
    engine = FakeEngine("sql")
    engine.go_on.clear()
    resolver = make(engine, threads)
    flood = [asyncio.create_task(resolver.bring_in(f"made-up-{i}", ALICE)) for i in range(100)]
    await until(lambda: len(engine.loads) == 4)
    over = [task for task in flood if task.done()]
    assert len(over) == 36
    assert all(isinstance(task.exception(), CallerLimitError) for task in over)
    # Those that go away keep no more threads than those that stay.
    for task in flood:
        task.cancel()
    more = [asyncio.create_task(resolver.bring_in(f"more-{i}", ALICE)) for i in range(20)]
    other = asyncio.create_task(resolver.bring_in("sql", BOB))
    await until(lambda: len(engine.loads) == 5)
    assert engine.loads[-1].endswith("/sql")
    engine.go_on.set()
    await asyncio.gather(other, *more)
    assert engine.ids == ("sql",)


async def test_adapters_without_end_are_not_brought_in(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver_module, "_MOST", 2)
    engine = FakeEngine("a", "A", "b")
    resolver = make(engine, threads)
    for name in ("a", "A"):
        await resolver.bring_in(name, ALICE)
    with pytest.raises(AdapterCapacityError, match="does not fit now"):
        await resolver.bring_in("b", ALICE)
    assert engine.ids == ("a", "A")


async def test_who_loads_it_meanwhile_is_not_undone(threads: Threads) -> None:
    engine = FakeEngine("sql")
    engine.go_on.clear()
    asked = asyncio.create_task(make(engine, threads).bring_in("sql", ALICE))
    await until(lambda: engine.loads)
    engine.ids = ("sql",)
    engine.go_on.set()
    await asked
    assert engine.ids == ("sql",)


async def test_what_a_source_has_that_is_broken_is_not_taken_for_none(threads: Threads) -> None:
    engine = FakeEngine()
    engine.error = BaseMismatchError("no such module")
    with (
        capture_logs() as lines,
        pytest.raises(AdapterError, match="found but could not be loaded"),
    ):
        await make(engine, threads).bring_in("sql", ALICE)
    (line,) = [line for line in lines if line["event"] == "adapter not resolved"]
    assert (line["caller"], line["error"]) == ("alice", "no such module")


async def test_callers_without_names_have_no_share_of_one(threads: Threads) -> None:
    names = [f"a{i}" for i in range(100)]
    engine = FakeEngine(*names)
    engine.go_on.clear()
    resolver = make(engine, threads)
    asked = [asyncio.create_task(resolver.bring_in(name, ANYONE)) for name in names]
    await until(lambda: len(engine.loads) == 16)
    engine.go_on.set()
    await asyncio.gather(*asked)
    assert set(engine.ids) == set(names)


FAILURES = {
    "unexpected": (OSError("/secret/path"), AdapterError, "found but could not be loaded"),
    "broken": (AdapterError("/secret/path is broken"), AdapterError, "found but could not be loaded"),
    "away": (AdapterUnavailableError("s3 is down"), AdapterUnavailableError, "cannot be fetched now"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAILURES)
async def test_what_cannot_be_loaded_is_told_without_its_place(
    threads: Threads, tmp_path: Path, kind: str
) -> None:
    error, told, text = FAILURES[kind]
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "adapter_config.json").write_text("{")
    engine = FakeEngine()
    engine.error = error
    resolver = make(engine, threads, root=tmp_path)
    for _ in range(3):
        with pytest.raises(told, match=text) as caught:
            await resolver.bring_in("sql", ALICE)
        assert "secret" not in str(caught.value)
    assert len(engine.loads) == 1


async def test_a_stop_is_not_remembered(threads: Threads) -> None:
    engine = FakeEngine("sql")
    resolver = make(engine, threads)
    threads.close()
    for _ in range(2):
        with pytest.raises(EngineStoppedError):
            await resolver.bring_in("sql", ANYONE)
    assert not resolver._failed
