"""The Adapters service: load, reload, unload, get, pages."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from loramux.v1 import adapters_pb2 as pb

from ..support.engines import slow_down
from ..support.servers import Harness, detail, refused

Code = grpc.StatusCode
LONG = {"prompt": "hi", "max_new_tokens": 40, "ignore_eos": True}


async def test_load_get_unload(served: Harness, adapter_root: Path) -> None:
    by_relative = await served.adapters.LoadAdapter(pb.LoadAdapterRequest(path="a2", adapter_id="new"))
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
        page = await served.adapters.ListAdapters(pb.ListAdaptersRequest(page_size=3, page_token=token))
        assert page.total_size == 8
        assert len(page.adapters) <= 3
        seen += [a.adapter_id for a in page.adapters]
        token = page.next_page_token
        if not token:
            break
    assert seen == [f"a{i}" for i in range(8)]
    everything = await served.adapters.ListAdapters(pb.ListAdaptersRequest())
    assert [a.adapter_id for a in everything.adapters] == seen
    assert everything.next_page_token == ""


@pytest.mark.parametrize(("request_", "field"), [
    (pb.ListAdaptersRequest(page_size=1001), "page_size"),
    (pb.ListAdaptersRequest(page_token="%%%"), "page_token"),
], ids=["size", "token"])
async def test_bad_pages(served: Harness, request_: pb.ListAdaptersRequest, field: str) -> None:
    error = await refused(served.adapters.ListAdapters(request_), Code.INVALID_ARGUMENT)
    assert detail(error, error_details_pb2.BadRequest).field_violations[0].field == field


@pytest.mark.parametrize("path", ["", "a\0b"])
async def test_bad_paths(served: Harness, path: str) -> None:
    error = await refused(served.adapters.LoadAdapter(pb.LoadAdapterRequest(path=path)), Code.INVALID_ARGUMENT)
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
