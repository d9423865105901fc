"""What runs now, over gRPC and HTTP: counts, slots and speed, in the caller's scope."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.json_format import ParseDict
from loramux.v1 import adapters_pb2 as pb_adapters
from loramux.v1 import inference_pb2 as pb_inference
from loramux.v1 import server_pb2 as pb

from lora_runtime import AdapterPolicy

from ..support.engines import HangingSteps, slow_down
from ..support.http_front import HttpHarness, http_running
from ..support.servers import make_settings, refused
from ..support.tokens import bearer, write_tokens


@pytest_asyncio.fixture
async def front(
    tiny_base: Path, tiny_adapters: dict[str, Path], tmp_path: Path
) -> AsyncIterator[HttpHarness]:
    """A server of three adapters in two slots: a0 and x0 have the same content."""
    tokens = write_tokens(
        tmp_path / "tokens.yaml",
        root={"adapters": ["*"]},
        user={"adapters": ["a*"]},
        blind={"adapters": ["*"], "read": False},
    )
    adapters = {
        "a0": tiny_adapters["a0"],
        "x0": tiny_adapters["a0"],
        "x1": tiny_adapters["a1"],
        "x2": tiny_adapters["a2"],
    }
    settings = make_settings(tiny_base, adapters, auth_file=tokens, max_adapters=2)
    async with http_running(settings) as harness:
        yield harness


async def status(front: HttpHarness, who: str) -> pb.ServerStatus:
    return await front.server.server.GetStatus(pb.GetStatusRequest(), metadata=bearer(who))


def start(front: HttpHarness, adapter_id: str) -> Any:
    request = pb_inference.GenerateRequest(
        adapter_id=adapter_id, prompt="hi", max_new_tokens=200, ignore_eos=True
    )
    return front.server.inference.Generate(request, metadata=bearer("root"))


@asynccontextmanager
async def answering(front: HttpHarness, *adapter_ids: str) -> AsyncIterator[None]:
    """Requests that run, all of them, while this is entered."""
    engine = front.server.app.engine
    slow_down(engine)
    calls = [start(front, adapter_id) for adapter_id in adapter_ids]
    try:
        while engine.occupancy().running < len(calls):
            await asyncio.sleep(0.01)
        yield
    finally:
        for call in calls:
            call.cancel()


def batch(told: pb.ServerStatus) -> list[tuple[str, int]]:
    return [(one.adapter_id, one.sequences) for one in told.batch.adapters]


def slots(told: pb.ServerStatus) -> list[tuple[list[str], int, bool]]:
    return [(list(slot.adapter_ids), slot.running, slot.is_hidden) for slot in told.slots]


async def test_what_runs_is_told_in_the_scope_of_who_asks(front: HttpHarness) -> None:
    async with answering(front, "x1", "a0", "x1", ""):
        told = await status(front, "root")
        assert batch(told) == [("x1", 2), ("", 1), ("a0", 1)]
        assert (told.batch.other_adapters, told.batch.other_sequences) == (0, 0)
        assert (told.load.running, told.load.waiting) == (4, 0)
        assert slots(told) == [(["a0", "x0"], 1, False), (["x1"], 2, False)]
        first = told.slots[0]
        info = front.server.app.engine.get_adapter("a0")
        assert (first.version, first.num_bytes, first.rank, first.pinned) == (
            info.version,
            info.num_bytes,
            info.max_rank,
            False,
        )
        told = await status(front, "user")
        assert batch(told) == [("a0", 1)]
        assert (told.batch.other_adapters, told.batch.other_sequences) == (2, 3)
        assert slots(told) == [(["a0"], 1, False), ([], 0, True)]
        assert told.slots[1] == pb.Slot(is_hidden=True)
        assert b"x1" not in told.SerializeToString()
        assert b"x0" not in told.SerializeToString()


async def test_steps_and_first_tokens_are_counted(front: HttpHarness) -> None:
    assert (await status(front, "root")).rates == pb.Rates()  # the warm-up is nobody's
    request = pb_inference.GenerateRequest(
        adapter_id="a0", prompt="hi there", max_new_tokens=20, ignore_eos=True, n=2
    )
    done = await front.server.inference.Generate(request, metadata=bearer("root"))
    rates = (await status(front, "root")).rates
    assert rates.ttft_requests == 1
    assert rates.ttft_p50_s == rates.ttft_p99_s > 0
    assert rates.generated_tokens_per_s >= 40 / 10
    mine = (await status(front, "user")).rates
    assert mine.ttft_p50_s == rates.ttft_p50_s
    await front.server.inference.Generate(
        pb_inference.GenerateRequest(prompt="hi", max_new_tokens=1), metadata=bearer("root")
    )
    assert (await status(front, "user")).rates.ttft_requests == 1
    assert (await status(front, "root")).rates.ttft_requests == 2
    assert rates.prompt_tokens_per_s >= done.choices[0].usage.prompt_tokens / 10


async def test_a_step_that_hangs_has_an_age(front: HttpHarness) -> None:
    assert (await status(front, "root")).batch.step_age_s == 0
    hanging = HangingSteps(front.server.app.engine)
    call = start(front, "x1")
    try:
        await asyncio.to_thread(hanging.reached.wait)
        told = await status(front, "root")
        assert told.batch.step_age_s > 0
        assert batch(told) == [("x1", 1)]
    finally:
        hanging.open.set()
        call.cancel()


async def test_the_host_tier_and_limits(front: HttpHarness) -> None:
    told = await status(front, "root")
    engine = front.server.app.engine
    assert (told.limits.max_adapters, told.load.adapters, told.load.host_adapters) == (2, 2, 1)
    assert told.limits.host_adapter_bytes == engine.config.adapter_host_bytes
    assert told.load.registered_adapters == 4
    assert told.readiness.state == pb.SERVER_STATE_READY
    assert told.base_model == engine.base.name
    engine.set_policy("x0", AdapterPolicy(pinned=True))
    assert [slot.pinned for slot in (await status(front, "user")).slots] == [True, False]


async def test_a_version_of_many_ids_names_a_few(
    front: HttpHarness, tiny_adapters: dict[str, Path]
) -> None:
    engine = front.server.app.engine
    for number in range(20):
        engine.load_adapter(tiny_adapters["a7"], f"a{number:02}")
        engine.load_adapter(tiny_adapters["a7"], f"x{number:02}")
    for who, count in (("root", 40), ("user", 20)):
        slot = next(s for s in (await status(front, who)).slots if "a00" in s.adapter_ids)
        assert list(slot.adapter_ids) == [f"a{number:02}" for number in range(16)]
        assert slot.adapter_ids_count == count


async def test_http_has_the_same(front: HttpHarness) -> None:
    async with answering(front, "x1", "a0"):
        for who in ("root", "user"):
            answer = await front.get("/status", who)
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["cache-control"] == "no-store"
            parsed = ParseDict(answer.json(), pb.ServerStatus())
            told = await status(front, who)
            for moving in ("rates", "batch", "load"):
                parsed.ClearField(moving)
                told.ClearField(moving)
            assert parsed == told
    assert answer.json()["slots"][1]["adapter_ids"] == []  # what is empty is there


async def test_who_may_ask(front: HttpHarness) -> None:
    for page in ("/status", "/adapters"):
        assert (await front.get(page)).status_code == 401
        assert (await front.get(page, "blind")).status_code == 403
    await refused(status(front, "blind"), grpc.StatusCode.PERMISSION_DENIED)


async def test_adapters_come_in_pages(front: HttpHarness) -> None:
    engine = front.server.app.engine
    engine.set_policy("x1", AdapterPolicy(weight=2.5))
    page = (await front.get("/adapters?page_size=3", "root")).json()
    assert [a["adapter_id"] for a in page["adapters"]] == ["a0", "x0", "x1"]
    assert page["total_size"] == 4
    assert page["adapters"][2]["policy"]["weight"] == 2.5
    assert page["adapters"][0]["state"] == "ADAPTER_STATE_HOST"
    assert page["adapters"][0]["modules"] == []  # hundreds of each
    assert page["adapters"][0]["max_rank"] == engine.get_adapter("a0").max_rank
    address = f"/adapters?page_token={page['next_page_token']}"
    rest = ParseDict((await front.get(address, "root")).json(), pb_adapters.ListAdaptersResponse())
    assert [a.adapter_id for a in rest.adapters] == ["x2"]
    assert not rest.next_page_token
    mine = (await front.get("/adapters", "user")).json()
    assert [a["adapter_id"] for a in mine["adapters"]] == ["a0"]
    assert mine["total_size"] == 1


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("page_size=-1", "page_size"),
        ("page_size=1001", "page_size"),
        ("page_size=٣", "page_size"),
        ("page_size=" + "9" * 5000, "page_size"),
        ("page_token=%21", "page_token"),
        ("pagesize=3", "pagesize"),
        ("page_size=3&page_size=4", "page_size"),
    ],
    ids=["negative", "large", "foreign", "endless", "token", "unknown", "twice"],
)
async def test_what_cannot_be_meant_is_refused_by_name(
    front: HttpHarness, query: str, param: str
) -> None:
    answer = await front.get(f"/adapters?{query}", "root")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
