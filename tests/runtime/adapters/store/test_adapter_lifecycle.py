"""Versions, aliases, leases and slots."""

from __future__ import annotations

import gc
import logging
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_runtime import (
    AdapterError,
    AdapterExistsError,
    AdapterInfo,
    AdapterInUseError,
    AdapterMissingError,
    BaseModel,
    Engine,
    EngineObserver,
    Request,
    SamplingParams,
    UnknownAdapterError,
)
from lora_runtime.adapters.store.reading import Reader

from ....support.adapters import edit_config, edit_tensors
from ....support.engines import slow_down
from ....support.models import save_base
from ....support.store import current_version

LONG = SamplingParams(max_new_tokens=60, ignore_eos=True)
SHORT = SamplingParams(max_new_tokens=8, ignore_eos=True)


def test_info_reports_what_was_applied(engine: Engine) -> None:
    info = engine.get_adapter("a3")
    assert info.max_rank == 4
    assert {m.name.split(".")[-1] for m in info.modules} == {"q_proj", "v_proj", "up_proj"}
    assert {m.scaling for m in info.modules} == {8 / 4}
    assert [a.adapter_id for a in engine.list_adapters()] == [f"a{i}" for i in range(8)]


def test_version_is_the_content(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    engine = make_engine()
    first = engine.load_adapter(tiny_adapters["a0"], "x")
    copy = engine.load_adapter(shutil.copytree(tiny_adapters["a0"], tmp_path / "copy"), "y")
    assert first.version == copy.version != engine.load_adapter(tiny_adapters["a1"], "z").version
    assert engine.load_adapter(tiny_adapters["a0"], "x").version == first.version


def test_an_id_that_is_not_to_be_replaced_stays_as_it_is(
    make_engine: Callable[..., Engine],
    tiny_adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = make_engine()
    assert not engine.has_adapter("x")
    read, faster = Reader.read, tiny_adapters["a1"]

    def slowly(reader: Reader, source: str, *args: Any) -> Any:
        found = read(reader, source, *args)
        if source == str(tiny_adapters["a0"]):  # another load comes first
            engine.load_adapter(faster, "x")
        return found

    monkeypatch.setattr(Reader, "read", slowly)
    with pytest.raises(AdapterExistsError):
        engine.load_adapter(tiny_adapters["a0"], "x", replace=False)
    assert engine.get_adapter("x").source == str(faster)
    assert engine.has_adapter("x")
    # Before anything is read, too.
    monkeypatch.setattr(Reader, "read", None)
    with pytest.raises(AdapterExistsError):
        engine.load_adapter(tiny_adapters["a2"], "x", replace=False)


def test_where_there_is_no_adapter_nothing_has_failed_that_was_looked_for(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    class Heard(EngineObserver):
        def __init__(self) -> None:
            self.failed: list[str] = []

        def on_adapter_failed(self, adapter_id: str, error: Exception) -> None:
            self.failed.append(adapter_id)

    engine = make_engine()
    engine.load_adapter(tiny_adapters["a0"])
    engine.add_observer(heard := Heard())
    for source in (tmp_path, tmp_path / "nowhere", f"file://{tmp_path}"):
        for name, replace in (("asked", False), ("ordered", True)):
            with pytest.raises(AdapterMissingError):
                engine.load_adapter(source, name, replace=replace)
    with pytest.raises(AdapterExistsError):
        engine.load_adapter(tiny_adapters["a1"], "a0", replace=False)
    assert heard.failed == ["ordered"] * 3


def test_reload_moves_the_name_and_never_serves_stale_kv(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]
) -> None:
    engine = make_engine()
    slow_down(engine)
    request = Request(
        prompt="a prompt of more than one block of tokens", adapter_id="x", sampling=SHORT
    )
    outputs = {}
    for name in ("a6", "a7"):
        engine.load_adapter(tiny_adapters[name], name)
        outputs[name] = engine.generate(
            Request(prompt=request.prompt, adapter_id=name, sampling=SHORT)
        ).text
    old = engine.load_adapter(tiny_adapters["a6"], "x")
    running = engine.submit(request)
    new = engine.load_adapter(tiny_adapters["a7"], "x")
    after = engine.generate(request)
    assert (running.adapter_version, running.result().text) == (old.version, outputs["a6"])
    assert (after.adapter_version, after.text) == (new.version, outputs["a7"])
    assert outputs["a6"] != outputs["a7"]
    assert engine.stats().adapters == 2  # the same content is in one slot, whatever its ids


def test_unload_frees_memory(engine: Engine) -> None:
    before = engine.stats()
    weights = weakref.ref(current_version(engine, "a5").weights)
    size = engine.get_adapter("a5").num_bytes
    engine.generate(Request(prompt="hi", adapter_id="a5", sampling=SHORT))
    engine.unload_adapter("a5")
    gc.collect()
    after = engine.stats()
    assert weights() is None
    assert before.adapter_bytes - after.adapter_bytes == size > 0
    assert before.adapters - after.adapters == 1
    with pytest.raises(UnknownAdapterError):
        engine.submit(Request(prompt="hi", adapter_id="a5"))


def test_unload_refuses_or_waits_for_leases(engine: Engine) -> None:
    slow_down(engine)
    handle = engine.submit(Request(prompt="hi", adapter_id="a1", sampling=LONG))
    with pytest.raises(AdapterInUseError, match="a1"):
        engine.unload_adapter("a1")
    assert engine.get_adapter("a1").leases == 1
    waiter = threading.Thread(target=engine.unload_adapter, args=("a1", 60))
    waiter.start()
    assert len(handle.result().choices[0].token_ids) == LONG.max_new_tokens
    waiter.join()
    with pytest.raises(UnknownAdapterError):
        engine.get_adapter("a1")


@pytest.mark.parametrize("replace", [True, False])
def test_a_load_takes_an_unload_back(
    engine: Engine, tiny_adapters: dict[str, Path], replace: bool
) -> None:
    slow_down(engine)
    request = Request(prompt="hi", adapter_id="a1", sampling=LONG)

    def is_known() -> bool:
        try:
            engine.prepare(request)
        except UnknownAdapterError:
            return False
        return True

    handle = engine.submit(request)
    with ThreadPoolExecutor(1) as pool:
        unloading = pool.submit(engine.unload_adapter, "a1", 60)
        while is_known():
            time.sleep(0.001)
        engine.load_adapter(tiny_adapters["a1"], "a1", replace=replace)
        with pytest.raises(AdapterInUseError, match="anew"):
            unloading.result()
    handle.cancel()
    assert engine.generate(Request(prompt="hi", adapter_id="a1", sampling=SHORT)).text


def test_observers_hear_of_loads_and_evictions(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]
) -> None:
    engine = make_engine()
    heard: list[tuple[str, str]] = []

    class Ear(EngineObserver):
        def on_adapter_loaded(self, info: AdapterInfo, seconds: float) -> None:
            heard.append(("loaded", info.adapter_id))

        def on_adapter_evicted(self, info: AdapterInfo, reason: str) -> None:
            heard.append((reason, info.version))

    engine.add_observer(Ear())
    old = engine.load_adapter(tiny_adapters["a0"], "x").version
    new = engine.load_adapter(tiny_adapters["a4"], "x").version
    engine.unload_adapter("x")
    assert heard == [("loaded", "x"), ("replaced", old), ("loaded", "x"), ("unloaded", new)]


def test_notes_are_logged_at_the_load_alone(
    make_engine: Callable[..., Engine],
    tiny_adapters: dict[str, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = shutil.copytree(tiny_adapters["a0"], tmp_path / "idle")
    edit_config(path, lora_alpha=0, lora_dropout=0.5)
    engine, restarted = make_engine(), make_engine()
    with caplog.at_level(logging.INFO, "lora_runtime"):
        info = engine.load_adapter(path, "x")
        restarted.register(*engine.registrations())
        restarted.generate(Request(prompt="hi", adapter_id="x"))
    told = [(r.levelname, r.getMessage()) for r in caplog.records if "adapter x" in r.getMessage()]
    warning, note = info.notes
    assert told == [("WARNING", f"adapter x: {warning}"), ("INFO", f"adapter x: {note}")]
    assert "changes nothing" in warning
    assert restarted.get_adapter("x").notes == info.notes


def test_version_does_not_depend_on_where_the_base_lies(
    tiny_base: Path, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    moved = shutil.copytree(tiny_base, tmp_path / "moved")
    other = save_base(tmp_path / "other", "qwen2")
    identities = [BaseModel.load(p, dtype="float32").identity for p in (tiny_base, moved, other)]
    assert identities[0] == identities[1] != identities[2]
    assert BaseModel.load(tiny_base, dtype="bfloat16").identity == identities[0]


def test_values_that_the_bases_dtype_cannot_hold(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    """Finite in the file, infinite in bfloat16: every answer would be NaN."""
    path = shutil.copytree(tiny_adapters["a1"], tmp_path / "large")
    edit_tensors(
        path,
        lambda t: {k: torch.full_like(v, 3.4e38) if "lora_B" in k else v for k, v in t.items()},
    )
    engine = make_engine(dtype="bfloat16")
    with pytest.raises(AdapterError, match="too large for the base's"):
        engine.load_adapter(path, "large")
    assert engine.list_adapters() == []
    assert engine.stats().host_adapter_bytes == 0
