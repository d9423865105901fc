"""The page for routers: its exact text, and what it says while adapters come and go."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lora_runtime import (
    AdapterPolicy,
    AdapterState,
    Engine,
    MemoryPlan,
    Occupancy,
    Request,
    RequestHandle,
    ResidentAdapter,
    SamplingParams,
)
from server.metrics import Metrics

from ..support.engines import HangingSteps
from ..support.http_front import HttpHarness, http_running
from ..support.processes import wait_until
from ..support.servers import free_port, make_settings
from ..support.tokens import write_tokens


@dataclass
class Info:
    max_adapters: int = 4
    kv_block_size: int = 16
    kv_blocks: int = 1000
    memory: MemoryPlan = MemoryPlan()  # noqa: RUF009 - it never changes


@dataclass
class Stub:
    """Stand-in for an engine, of which all reports are known."""

    now: Occupancy = field(default_factory=lambda: Occupancy(2, 1, 250, 1000))
    adapters: tuple[ResidentAdapter, ...] = ()
    about: Info = field(default_factory=Info)

    def info(self) -> Info:
        return self.about

    def occupancy(self) -> Occupancy:
        return self.now

    def residents(self) -> tuple[ResidentAdapter, ...]:
        return self.adapters

    def add_observer(self, observer: object) -> None: ...


def adapter(*ids: str, level: str = "device", rank: int = 8, **fields: Any) -> ResidentAdapter:
    values: dict[str, Any] = {
        "version": "".join(ids),
        "adapter_ids": ids,
        "level": AdapterState(level),
        "staged": True,
        "in_service": True,
        "pinned": False,
        "rank": rank,
        "num_bytes": 1,
        "host_bytes": 1,
    }
    return ResidentAdapter(**(values | fields))


def page(stub: Stub, *names: str) -> str:
    metrics = Metrics(100, names or ("loramux", "vllm"))
    assert metrics.router_page() == b""
    metrics.attach(cast(Engine, stub), "base")
    text = metrics.router_page().decode()
    list(text_string_to_metric_families(text))  # raises for what is no page
    return text


def listed(text: str) -> dict[str, str]:
    """The labels by which the picker's scorer decides."""
    (line,) = re.findall(r"^\w+.lora_requests_info\{(.*)\} \d", text, re.MULTILINE)
    return dict(re.findall(r'(\w+)="([^"]*)"', line))


TEXT = """\
# HELP vllm:num_requests_waiting Sequences in the queue.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{model_name="base"} 1.0
# HELP vllm:num_requests_running Sequences in the running batch.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="base"} 2.0
# HELP vllm:kv_cache_usage_perc Share of the KV blocks that live sequences hold, 0 to 1.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{model_name="base"} 0.25
# HELP vllm:cache_config_info KV cache.
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",num_gpu_blocks="1000"} 1.0
# HELP vllm:lora_requests_info Adapters in a slot or on their way into one, and those that requests \
wait for besides; the value is the time.
# TYPE vllm:lora_requests_info gauge
vllm:lora_requests_info{max_lora="4",running_lora_adapters="json,pirate,sql",\
waiting_lora_adapters="cold"} TIME
# HELP vllm:lora_adapter_loaded Adapters that are ready to serve: in a slot (gpu), or in host \
memory alone (cpu).
# TYPE vllm:lora_adapter_loaded gauge
vllm:lora_adapter_loaded{adapter_name="json",level="gpu",pinned="true",rank="16"} 1.0
vllm:lora_adapter_loaded{adapter_name="pirate",level="gpu",pinned="false",rank="8"} 1.0
vllm:lora_adapter_loaded{adapter_name="idle",level="cpu",pinned="false",rank="8"} 1.0
# HELP vllm:num_gpu_loaded_lora_adapters Slots in use.
# TYPE vllm:num_gpu_loaded_lora_adapters gauge
vllm:num_gpu_loaded_lora_adapters{model_name="base"} 3.0
# HELP vllm:max_gpu_lora_adapters Slots.
# TYPE vllm:max_gpu_lora_adapters gauge
vllm:max_gpu_lora_adapters{model_name="base"} 4.0
# HELP vllm:num_cpu_loaded_lora_adapters Adapter versions with a copy in host memory, those in a \
slot beside it included.
# TYPE vllm:num_cpu_loaded_lora_adapters gauge
vllm:num_cpu_loaded_lora_adapters{model_name="base"} 3.0
"""
ADAPTERS = (
    adapter("json", rank=16, pinned=True),
    adapter("pirate"),
    adapter(version="old", staged=False),  # only finishes what runs with it
    adapter("idle", level="host"),
    adapter("sql", level="loading", rank=0, staged=False),
)


def test_the_text_is_exactly_this() -> None:
    busy = Occupancy(2, 1, 250, 1000, awaited=("cold", "sql"))
    text = page(Stub(busy, ADAPTERS))
    head, loads, histogram = text.partition("# HELP vllm:lora_adapter_load_seconds ")
    assert re.sub(r"(\"cold\"\}) 1\.[0-9]+e\+09", r"\1 TIME", head) == TEXT
    assert loads
    assert "# TYPE vllm:lora_adapter_load_seconds histogram\n" in histogram
    assert 'vllm:lora_adapter_load_seconds_count{model_name="base"} 0.0\n' in histogram
    assert text.endswith("\n")


def test_loramux_s_names_alone_say_the_same() -> None:
    text = page(Stub(adapters=ADAPTERS), "loramux")
    assert "vllm" not in text
    lines = re.sub("^vllm:|(?<= )vllm:", "loramux_", TEXT, flags=re.MULTILINE).splitlines()
    of_time = re.compile(r"^loramux_lora_requests_info")
    assert {line for line in lines if not of_time.match(line)} <= set(text.splitlines())
    assert listed(text)["running_lora_adapters"] == "json,pirate,sql"
    assert "loramux_adapter_load_seconds_count 0.0\n" in text


def test_a_page_changes_with_what_it_tells_of() -> None:
    stub = Stub()
    metrics = Metrics(100)
    metrics.attach(cast(Engine, stub), "base")
    assert listed(metrics.router_page().decode())["running_lora_adapters"] == ""
    stub.adapters = (adapter("a"),)
    text = metrics.router_page().decode()
    assert listed(text) == {
        "max_lora": "4",
        "running_lora_adapters": "a",
        "waiting_lora_adapters": "",
    }
    assert 'vllm:num_gpu_loaded_lora_adapters{model_name="base"} 1.0' in text
    stub.now = Occupancy(0, 7, 1000, 1000, awaited=("b",))
    text = metrics.router_page().decode()
    assert listed(text)["waiting_lora_adapters"] == "b"
    assert 'vllm:num_requests_waiting{model_name="base"} 7.0' in text
    assert 'vllm:kv_cache_usage_perc{model_name="base"} 1.0' in text


@pytest.mark.parametrize("adapter_id", ["a,b", " a", "a "])
def test_an_id_that_a_list_cannot_have_stands_for_no_other(adapter_id: str) -> None:
    busy = Occupancy(0, 1, 0, 1000, awaited=(adapter_id,))
    text = page(Stub(busy, (adapter(adapter_id),)))
    assert listed(text) == {
        "max_lora": "4",
        "running_lora_adapters": "",
        "waiting_lora_adapters": "",
    }
    assert f'vllm:lora_adapter_loaded{{adapter_name="{adapter_id}",level="gpu"' in text


def test_names_cannot_break_the_page() -> None:
    text = page(Stub(adapters=(adapter('a"\\'), adapter("ü"))))
    loaded = next(
        f for f in text_string_to_metric_families(text) if f.name == "vllm:lora_adapter_loaded"
    )
    assert [s.labels["adapter_name"] for s in loaded.samples] == ['a"\\', "ü"]


def test_a_canary_and_what_is_out_of_service() -> None:
    text = page(
        Stub(
            adapters=(
                adapter("a", version="canary", rank=4),
                adapter("broken", in_service=False),
                adapter("a", version="current", level="host"),
            )
        )
    )
    assert re.findall(r"vllm:lora_adapter_loaded\{(.*)\}", text) == [
        'adapter_name="a",level="gpu",pinned="false",rank="4"'
    ]
    assert listed(text)["running_lora_adapters"] == "a"
    assert 'vllm:num_gpu_loaded_lora_adapters{model_name="base"} 2.0' in text


def test_slots_are_full_when_their_bytes_are() -> None:
    about = Info(max_adapters=8, memory=MemoryPlan(adapters=100))
    for sizes, most in (((30, 30), 8), ((30, 40, 20), 3), ((), 8)):
        adapters = tuple(adapter(f"a{i}", num_bytes=size) for i, size in enumerate(sizes))
        text = page(Stub(adapters=adapters, about=about))
        assert listed(text)["max_lora"] == str(most)
        assert f'vllm:max_gpu_lora_adapters{{model_name="base"}} {most}.0' in text


def test_a_server_without_slots_tells_of_none() -> None:
    text = page(Stub(about=Info(max_adapters=0)))
    assert "vllm:num_requests_waiting" in text
    assert "lora_requests_info" not in text
    assert "lora_adapter_loaded" not in text


# --- a server --------------------------------------------------------------------------------


@asynccontextmanager
async def serving(base: Path, tmp_path: Path, **fields: Any) -> AsyncIterator[HttpHarness]:
    tokens = write_tokens(
        tmp_path / "tokens.yaml", root={"adapters": ["*"]}, user={"adapters": ["a0"]}
    )
    settings = make_settings(
        base, auth_file=tokens, served_model_names=["tiny", "other"], max_adapters=2, **fields
    )
    async with http_running(settings) as front:
        yield front


def scraped(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return answer.read().decode()


async def test_it_is_true_of_a_server(
    tiny_base: Path, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    port = free_port()
    async with serving(tiny_base, tmp_path, metrics_port=port) as front:
        engine = front.server.app.engine

        async def both() -> str:
            """Text of the page on either port, and on /metrics."""
            text = (await front.get("/metrics/router", "root")).text
            whole = (await front.get("/metrics", "root")).text
            assert stable(text) == stable(scraped(port, "/metrics/router"))
            assert stable(text) <= stable(whole)
            return text

        assert (await front.get("/metrics/router")).status_code == 401
        assert (await front.get("/metrics/router", "user")).status_code == 403
        answer = await front.get("/metrics/router", "root")
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        for name in ("a0", "a1", "a2"):
            engine.load_adapter(tiny_adapters[name], name)
        engine.set_policy("a2", AdapterPolicy(pinned=True))
        text = await both()
        assert listed(text)["running_lora_adapters"] == "a1,a2"
        for line in (
            'vllm:lora_adapter_loaded{adapter_name="a0",level="cpu",pinned="false",rank="1"} 1.0',
            'vllm:lora_adapter_loaded{adapter_name="a2",level="gpu",pinned="true",rank="3"} 1.0',
            'vllm:num_gpu_loaded_lora_adapters{model_name="tiny"} 2.0',
            'vllm:num_cpu_loaded_lora_adapters{model_name="tiny"} 3.0',
            'vllm:kv_cache_usage_perc{model_name="tiny"} 0.0',
        ):
            assert line in text.splitlines()
        loads = 'vllm:lora_adapter_load_seconds_count{model_name="tiny"} 3.0\n'
        wait_until(lambda: loads in scraped(port, "/metrics/router"))  # it may be a second old
        hanging = HangingSteps(engine)
        handles = [submitted(engine, name) for name in ("a0", "a1")]
        wait_until(hanging.reached.is_set)
        text = await both()
        assert 'vllm:num_requests_running{model_name="tiny"} 1.0' in text
        assert 'vllm:num_requests_waiting{model_name="tiny"} 1.0' in text
        assert listed(text)["running_lora_adapters"].endswith("a2")  # which is pinned
        hanging.open.set()
        for handle in handles:
            handle.result()


def stable(text: str) -> set[str]:
    """Lines of a page, but for the times of scrapes and what may be older."""
    lines = re.sub(r"(lora_requests_info\{.*\}) .*", r"\1", text).splitlines()
    return {line for line in lines if "lora_adapter_load_seconds" not in line}


def submitted(engine: Engine, adapter_id: str) -> RequestHandle:
    sampling = SamplingParams(max_new_tokens=4, ignore_eos=True)
    return engine.submit(Request(prompt="a prompt", adapter_id=adapter_id, sampling=sampling))
