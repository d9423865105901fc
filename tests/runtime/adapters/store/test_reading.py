"""Readings of adapters' files: below their roots each time, so many bytes at once, gone when they
are refused, ended with the engine."""

from __future__ import annotations

import gc
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lora_runtime import AdapterError, AdapterUnavailableError, Engine, EngineStoppedError, Request
from lora_runtime.adapters.peft.read_budget import ReadBudget
from lora_runtime.adapters.peft.safetensors_file import OpenTensors
from lora_runtime.adapters.store.load_threads import LoadThreads

from ....support.adapters import edit_tensors
from ....support.processes import wait_until
from ....support.store import current_version

WEIGHTS = "adapter_model.safetensors"
SECRET = '{"peft_type": "hunter2"}'


@pytest.fixture
def engine(make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]) -> Engine:
    """One that keeps a single adapter: the next request for another reads again."""
    engine = make_engine(max_adapters=1, adapter_host_bytes=0)
    engine.load_adapter(tiny_adapters["a1"], "other")
    return engine


def ask(engine: Engine, adapter_id: str) -> None:
    engine.generate(Request(prompt="a", adapter_id=adapter_id))


def swap_for_link(adapter: Path, outside: Path) -> None:
    """Let the configuration lead out of the roots to what is no adapter's."""
    outside.write_text(SECRET)
    (adapter / "adapter_config.json").unlink()
    (adapter / "adapter_config.json").symlink_to(outside)


# --- roots --------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("how", ["file", "directory", "parent"])
def test_links_swapped_after_the_load_are_refused(
    make_engine: Callable[..., Engine],
    engine: Engine,
    tiny_adapters: dict[str, Path],
    tmp_path: Path,
    how: str,
    restarted: bool,
) -> None:
    """Whatever is swapped below the root: at the next reading nothing outside is opened."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    mine = shutil.copytree(tiny_adapters["a0"], root / "team" / "mine")
    engine.load_adapter(mine, "mine", roots=[root])
    ask(engine, "other")
    if restarted:
        (registration,) = [r for r in engine.registrations() if r.adapter_id == "mine"]
        assert registration.versions[0].roots == (str(root),)
        engine = make_engine()
        engine.register(registration)
    outside.mkdir()
    if how == "file":
        swap_for_link(mine, outside / "secret.json")
    else:
        moved = mine if how == "directory" else mine.parent
        shutil.move(moved, outside / moved.name)
        moved.symlink_to(outside / moved.name)
    with pytest.raises(AdapterUnavailableError, match="outside the allowed roots") as caught:
        ask(engine, "mine")
    assert "hunter2" not in f"{caught.value} {engine.get_adapter('mine').error}"


def test_an_older_version_keeps_its_roots(
    engine: Engine, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    mine = shutil.copytree(tiny_adapters["a0"], tmp_path / "root" / "mine")
    engine.load_adapter(mine, "mine", roots=[tmp_path / "root"])
    engine.load_adapter(tiny_adapters["a2"], "mine")
    swap_for_link(mine, tmp_path / "secret.json")
    hint = r"outside the allowed roots: .*hub snapshot lead to blobs/ beside snapshots/"
    with pytest.raises(AdapterUnavailableError, match=hint):
        engine.rollback_adapter("mine")


def test_a_place_without_roots_stays_unlimited(
    engine: Engine, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    """The operator's own places may have links to anywhere, also where a caller loads the same."""
    root = tmp_path / "root"
    mine = shutil.copytree(tiny_adapters["a0"], root / "mine")
    engine.load_adapter(mine, "operators")
    engine.load_adapter(mine, "callers", roots=[root])
    shutil.move(mine / WEIGHTS, tmp_path / WEIGHTS)
    (mine / WEIGHTS).symlink_to(tmp_path / WEIGHTS)
    ask(engine, "other")
    ask(engine, "operators")


# --- bytes at once ------------------------------------------------------------------------------


def test_readings_wait_for_their_bytes_in_turn() -> None:
    budget, order = ReadBudget(10), []
    first = budget.share()
    first.take(6)

    def read(size: int) -> None:
        share = budget.share()
        share.take(size)
        order.append(size)
        share.give_back()

    threads = []
    for size in (100, 7, 4):  # 4 would fit at once, and 100 goes alone
        threads.append(threading.Thread(target=read, args=(size,)))
        threads[-1].start()
        wait_until(lambda: len(budget.waiting) == len(threads))
    assert not order
    first.give_back()
    for thread in threads:
        thread.join(10)
    assert order[0] == 100
    assert sorted(order) == [4, 7, 100]
    assert budget.used == 0


def test_the_end_wakes_what_waits() -> None:
    budget, raised = ReadBudget(10), []
    budget.share().take(10)

    def read() -> None:
        try:
            budget.share().take(1)
        except EngineStoppedError as error:
            raised.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    wait_until(lambda: len(budget.waiting) == 1)
    budget.close()
    thread.join(10)
    assert raised
    with pytest.raises(EngineStoppedError):
        budget.share().take(1)


def test_every_byte_is_given_back(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    """After loads, refusals and readings again nothing is counted; beside each other they wait."""
    size = max((path / WEIGHTS).stat().st_size for path in tiny_adapters.values())
    engine = make_engine(max_adapters=1, adapter_host_bytes=0, max_adapter_bytes=size)
    bad = shutil.copytree(tiny_adapters["a2"], tmp_path / "bad")
    edit_tensors(bad, lambda t: {name: torch.full_like(x, float("nan")) for name, x in t.items()})
    for name in ("a0", "a1"):
        engine.load_adapter(tiny_adapters[name], name)
    with pytest.raises(AdapterError, match="NaN"):
        engine.load_adapter(bad, "bad")
    for handle in [engine.submit(Request(prompt="a", adapter_id=n)) for n in ("a0", "a1") * 2]:
        handle.result()
    wait_until(lambda: not engine.stats().loading_adapters)
    assert engine._store._reader._budget.used == 0


# --- refused ------------------------------------------------------------------------------------


def live_tensors() -> int:
    return sum(type(found) is torch.Tensor for found in gc.get_objects())


def test_a_refused_load_leaves_no_memory(
    engine: Engine, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    """Also while its error is kept, and before the garbage collector comes."""
    bad = shutil.copytree(tiny_adapters["a0"], tmp_path / "bad")
    edit_tensors(bad, lambda t: {name: torch.full_like(x, float("nan")) for name, x in t.items()})
    gc.collect()
    gc.disable()
    try:
        before = live_tensors()
        for _ in range(3):
            with pytest.raises(AdapterError, match="NaN") as caught:
                engine.load_adapter(bad, "bad")
            assert live_tensors() == before
            assert caught.value.__traceback__
    finally:
        gc.enable()


def test_a_failed_reading_again_leaves_no_memory(
    engine: Engine, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    """What was read of other content than was registered is let go of with its error."""
    mine = shutil.copytree(tiny_adapters["a0"], tmp_path / "mine")
    engine.load_adapter(mine, "mine")
    ask(engine, "other")
    shutil.copytree(tiny_adapters["a2"], mine, dirs_exist_ok=True)
    gc.collect()
    gc.disable()
    try:
        before = live_tensors()
        version = current_version(engine, "mine")
        with pytest.raises(AdapterUnavailableError, match="other content") as caught:
            engine._store.slots.bring_in(version)
        assert live_tensors() == before
        assert caught.value.__traceback__
    finally:
        gc.enable()


# --- the end ------------------------------------------------------------------------------------


def test_the_end_waits_for_loads_that_end(
    make_engine: Callable[..., Engine],
    tiny_adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that is in the middle of a file ends by itself, before the interpreter does."""
    engine = make_engine(max_adapters=1, adapter_host_bytes=0)
    for name in ("a0", "a1"):
        engine.load_adapter(tiny_adapters[name], name)
    entered = threading.Event()
    read = OpenTensors.read

    def slow(self: OpenTensors, share: object = None) -> object:
        entered.set()
        wait_until(lambda: engine._store._reader._budget.closed)
        return read(self, share)  # type: ignore[arg-type]

    monkeypatch.setattr(OpenTensors, "read", slow)
    handle = engine.submit(Request(prompt="a", adapter_id="a0"))
    assert entered.wait(10)
    engine.shutdown()
    with pytest.raises(Exception, match=r"shut down|stopped|cancel"):
        handle.result()
    assert engine._store._reader.threads.join(0)


def test_the_end_does_not_wait_for_a_load_that_hangs() -> None:
    threads, begun, open_ = LoadThreads(2), threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        open_.wait(60)

    hanging = threads.submit(hang)
    assert begun.wait(10)
    threads.close()
    assert not threads.join(0.1)
    assert not hanging.done()
    open_.set()
    assert threads.join(10)
