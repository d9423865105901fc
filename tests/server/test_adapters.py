"""The Adapters service: load, reload, unload, get, pages."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from loramux.v1 import adapters_pb2 as pb

from lora_runtime import AdapterInfo, AppliedModule, UnknownAdapterError
from server.auth.tokens import ANYONE, Caller
from server.operations.adapter_messages import to_message
from server.operations.adapter_pages import IdsInScope, page

from ..support.engines import slow_down
from ..support.servers import Harness, detail, make_settings, refused, running

Code = grpc.StatusCode
LONG: dict[str, Any] = {"prompt": "hi", "max_new_tokens": 40, "ignore_eos": True}


async def test_load_get_unload(served: Harness, adapter_root: Path) -> None:
    by_relative = await served.adapters.LoadAdapter(
        pb.LoadAdapterRequest(path="a2", adapter_id="new")
    )
    absolute = pb.LoadAdapterRequest(path=str(adapter_root / "a2"), adapter_id="b")
    by_absolute = await served.adapters.LoadAdapter(absolute)
    assert by_relative.version == by_absolute.version
    assert (by_relative.adapter_id, by_relative.max_rank, len(by_relative.modules)) == ("new", 3, 9)
    assert by_relative.num_bytes > 0
    assert by_relative.loaded_at.seconds > 1_700_000_000
    assert await served.adapters.GetAdapter(pb.GetAdapterRequest(adapter_id="new")) == by_relative
    done = await served.generate(adapter_id="new", prompt="hi", max_new_tokens=4)
    assert done.adapter_version == by_relative.version
    await served.adapters.UnloadAdapter(pb.UnloadAdapterRequest(adapter_id="new"))
    for call in (
        served.generate(adapter_id="new", prompt="hi"),
        served.adapters.GetAdapter(pb.GetAdapterRequest(adapter_id="new")),
        served.adapters.UnloadAdapter(pb.UnloadAdapterRequest(adapter_id="new")),
    ):
        info = detail(await refused(call, Code.NOT_FOUND), error_details_pb2.ResourceInfo)
        assert info.resource_name == "new"


async def test_pages(served: Harness) -> None:
    seen, token = [], ""
    while True:
        found = await served.adapters.ListAdapters(
            pb.ListAdaptersRequest(page_size=3, page_token=token)
        )
        assert found.total_size == 8
        assert len(found.adapters) <= 3
        seen += [a.adapter_id for a in found.adapters]
        token = found.next_page_token
        if not token:
            break
    assert seen == [f"a{i}" for i in range(8)]
    everything = await served.adapters.ListAdapters(pb.ListAdaptersRequest())
    assert [a.adapter_id for a in everything.adapters] == seen
    assert everything.next_page_token == ""


async def test_pages_fit_into_a_message(tiny_base: Path, tiny_adapters: dict[str, Path]) -> None:
    async with running(make_settings(tiny_base, tiny_adapters, max_message_bytes=4096)) as served:
        pages: list[pb.ListAdaptersResponse] = []
        while not pages or pages[-1].next_page_token:
            token = pages[-1].next_page_token if pages else ""
            pages.append(
                await served.adapters.ListAdapters(
                    pb.ListAdaptersRequest(page_size=500, page_token=token)
                )
            )
        assert [a.adapter_id for p in pages for a in p.adapters] == [f"a{i}" for i in range(8)]
        assert 1 < len(pages) < 8
        assert all(p.ByteSize() <= 4096 for p in pages)


def test_a_page_has_one_adapter_at_least() -> None:
    def report(name: str) -> AdapterInfo:
        return AdapterInfo(name, "v" * 64, "/a", "base", (), 0, 0, 0.0)

    first = page(("a", "b"), report, 0, "", 10)
    last = page(("a", "b"), report, 0, first.next_page_token, 10)
    assert [[a.adapter_id for a in p.adapters] for p in (first, last)] == [["a"], ["b"]]
    assert last.next_page_token == ""


def test_a_page_asks_for_its_own_reports_alone() -> None:
    """Nor does it sort, or look at, the ids before and after it."""
    asked: list[str] = []

    def report(name: str) -> AdapterInfo:
        asked.append(name)
        if name == "id-41":
            raise UnknownAdapterError(name)  # unloaded since the ids were found
        return AdapterInfo(name, "v" * 64, "/a", "base", (), 0, 0, 0.0)

    ids = tuple(f"id-{i}" for i in range(10, 100))
    first = page(ids, report, 30, "", 1 << 20)
    second = page(ids, report, 3, first.next_page_token, 1 << 20)
    assert asked == list(ids[:33])
    assert [a.adapter_id for a in second.adapters] == ["id-40", "id-42"]
    assert (second.total_size, bool(second.next_page_token)) == (90, True)
    third = page(ids, report, 1000, second.next_page_token, 1 << 20)
    assert [a.adapter_id for a in third.adapters] == list(ids[33:])
    assert not third.next_page_token


def test_ids_in_scope_are_found_once_for_a_change() -> None:
    tried: list[str] = []

    class Counting(Caller):
        def may_use(self, adapter_id: str) -> bool:
            tried.append(adapter_id)
            return super().may_use(adapter_id)

    one = Counting(name="one", token_sha256="0" * 64, adapters=("a*",))
    found, ids = IdsInScope(), ("a1", "a2", "b1")
    assert [list(found.of(one, ids)) for _ in range(3)] == [["a1", "a2"]] * 3
    assert tried == list(ids)
    assert list(found.of(one, (*ids, "a3"))) == ["a1", "a2", "a3"]
    # The token file was read again: the same name, another scope.
    other = Counting(name="one", token_sha256="0" * 64, adapters=("b*",))
    assert list(found.of(other, ids)) == ["b1"]
    assert found.of(ANYONE, ids) is ids


def test_a_report_of_changed_modules_is_made_anew() -> None:
    modules = tuple(AppliedModule(f"m{i}", 8, 2.0, ("lora",), 10) for i in range(3))
    info = AdapterInfo("a", "v" * 64, "/a", "base", modules, 5, 1, 2.0, notes=("n",))
    twice = [to_message(info) for _ in range(2)]
    assert twice[0] == twice[1]
    assert [m.name for m in twice[0].modules] == ["m0", "m1", "m2"]
    assert twice[0].max_rank == 8
    fewer = replace(info, modules=modules[:1], leases=3)
    assert ([m.name for m in to_message(fewer).modules], to_message(fewer).leases) == (["m0"], 3)


async def test_long_ids_are_refused(served: Harness) -> None:
    adapters, name = served.adapters, "\u20ac" * 20_000
    for call, request in (
        (adapters.LoadAdapter, pb.LoadAdapterRequest(path="a0", adapter_id=name)),
        (adapters.UnloadAdapter, pb.UnloadAdapterRequest(adapter_id=name)),
        (adapters.RollbackAdapter, pb.RollbackAdapterRequest(adapter_id=name)),
        (adapters.SetCanary, pb.SetCanaryRequest(adapter_id=name, weight=1)),
        (adapters.SetPolicy, pb.SetPolicyRequest(adapter_id=name, policy=pb.Policy())),
        (adapters.GetAdapter, pb.GetAdapterRequest(adapter_id=name)),
    ):
        error = await refused(call(request), Code.INVALID_ARGUMENT)
        assert detail(error, error_details_pb2.BadRequest).field_violations[0].field == "adapter_id"
    long_version = pb.RollbackAdapterRequest(adapter_id="a0", version=name)
    await refused(adapters.RollbackAdapter(long_version), Code.FAILED_PRECONDITION)


async def test_loads_that_hang_hold_no_other_call(
    served: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their source does not answer: each has a thread, but none that other calls need."""
    go_on = threading.Event()
    monkeypatch.setattr(served.app.engine, "load_adapter", lambda *a, **k: go_on.wait(60))
    request = pb.LoadAdapterRequest(path="a1", adapter_id="new")
    loads = [asyncio.ensure_future(served.adapters.LoadAdapter(request)) for _ in range(40)]
    while sum(t.name.startswith("loramux-loading_") for t in threading.enumerate()) < 16:
        await asyncio.sleep(0.01)
    canary = pb.SetCanaryRequest(adapter_id="a0", weight=0.5)
    await refused(served.adapters.SetCanary(canary, timeout=30), Code.FAILED_PRECONDITION)
    assert sum(t.name.startswith("loramux-loading_") for t in threading.enumerate()) == 16
    for load in loads:
        load.cancel()
    await asyncio.gather(*loads, return_exceptions=True)
    go_on.set()


async def test_one_unload_waits_for_an_id(served: Harness) -> None:
    slow_down(served.app.engine)
    busy = asyncio.ensure_future(served.generate(adapter_id="a0", **LONG))
    await asyncio.sleep(0.1)
    request = pb.UnloadAdapterRequest(adapter_id="a0", timeout_s=3600)
    waiting = [asyncio.ensure_future(served.adapters.UnloadAdapter(request)) for _ in range(40)]
    loaded = await served.adapters.LoadAdapter(pb.LoadAdapterRequest(path="a1", adapter_id="new"))
    assert loaded.adapter_id == "new"
    results = await asyncio.gather(*waiting, return_exceptions=True)
    refusals = [r for r in results if isinstance(r, grpc.aio.AioRpcError)]
    assert {(r.code(), r.details()) for r in refusals} == {
        (Code.FAILED_PRECONDITION, "adapter 'a0' is being unloaded already")
    }
    assert len(refusals) == 39
    await busy
    again = await refused(
        served.adapters.UnloadAdapter(request), Code.NOT_FOUND
    )  # nothing waits any more
    assert "a0" in again.details()


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ListAdaptersRequest(page_size=1001), "page_size"),
        (pb.ListAdaptersRequest(page_token="%%%"), "page_token"),
    ],
    ids=["size", "token"],
)
async def test_bad_pages(served: Harness, request_: pb.ListAdaptersRequest, field: str) -> None:
    error = await refused(served.adapters.ListAdapters(request_), Code.INVALID_ARGUMENT)
    assert detail(error, error_details_pb2.BadRequest).field_violations[0].field == field


@pytest.mark.parametrize("path", ["", "a\0b"])
async def test_bad_paths(served: Harness, path: str) -> None:
    error = await refused(
        served.adapters.LoadAdapter(pb.LoadAdapterRequest(path=path)), Code.INVALID_ARGUMENT
    )
    assert detail(error, error_details_pb2.BadRequest).field_violations[0].field == "path"


async def test_reload_while_running(served: Harness) -> None:
    alone = {name: await served.generate(adapter_id=name, **LONG) for name in ("a0", "a1")}
    slow_down(served.app.engine)
    running = asyncio.ensure_future(served.generate(adapter_id="a0", **LONG))
    await asyncio.sleep(0.1)
    new = await served.adapters.LoadAdapter(pb.LoadAdapterRequest(path="a1", adapter_id="a0"))
    after = await served.generate(adapter_id="a0", **LONG)
    before = await running
    assert (before.adapter_version, before.text) == (alone["a0"].adapter_version, alone["a0"].text)
    assert (after.adapter_version, after.text) == (new.version, alone["a1"].text)
    assert before.text != after.text


async def test_unload_in_use(served: Harness) -> None:
    slow_down(served.app.engine)
    running = asyncio.ensure_future(served.generate(adapter_id="a0", **LONG))
    await asyncio.sleep(0.1)
    request = pb.UnloadAdapterRequest(adapter_id="a0")
    await refused(served.adapters.UnloadAdapter(request), Code.FAILED_PRECONDITION)
    request.timeout_s = 60
    await served.adapters.UnloadAdapter(request)
    assert len((await running).choices[0].token_ids) == LONG["max_new_tokens"]
    request.timeout_s = -1
    await refused(served.adapters.UnloadAdapter(request), Code.INVALID_ARGUMENT)
