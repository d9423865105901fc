"""What a server writes for placement, placement reads."""

from __future__ import annotations

from typing import cast

import pytest

from lora_runtime import AdapterUse, Engine, Occupancy, RequestRecord
from server.metrics import Metrics
from server.placement.page import parse

from ..test_router_signals import Stub, adapter

NAMES = ("a", 'quo"te', "back\\slash", "new\nline", "com,ma", "ünï")


class Registered(Stub):
    """An engine that says what is registered."""

    ids: tuple[str, ...] = NAMES

    def registrations(self) -> list[AdapterUse]:
        return [AdapterUse(name, "v", 1.0) for name in self.ids]


def record(
    *ids: str, prompt: int = 10, cached: int = 4, answer: int = 5, ttft_s: float | None = 0.1
) -> RequestRecord:
    return RequestRecord(
        request_id="r",
        adapter_id=ids[0] if ids else "",
        adapter_version="v",
        outcome="ok",
        prompt_tokens=prompt,
        cached_tokens=cached,
        completion_tokens=answer,
        queue_s=0,
        ttft_s=ttft_s,
        e2e_s=0.2,
        adapters=tuple(AdapterUse(name, "v", 1.0) for name in ids),
        choice_tokens=(answer,),
    )


@pytest.mark.parametrize("names", [("vllm",), ("loramux",), ("loramux", "vllm")])
def test_a_server_s_page(names: tuple[str, ...]) -> None:
    residents = (*(adapter(name) for name in NAMES), adapter("host", level="host"))
    engine = Registered(Occupancy(0, 0, 0, 10), residents)
    metrics = Metrics(0, names)  # no adapter has a label on the others' page
    assert metrics.placement_page() == b""
    metrics.attach(cast(Engine, engine), "base")
    for name in NAMES:
        engine_finished(metrics, record(name))
    engine_finished(metrics, record("a", 'quo"te'))
    engine_finished(metrics, record())
    engine_finished(metrics, record("a", answer=0, ttft_s=None))  # it only waited
    page = parse(metrics.placement_page().decode())
    assert page.slots == 4
    assert page.resident == frozenset(NAMES)
    assert page.work == dict.fromkeys(NAMES, 11.0) | {"a": 22.0}
    assert page.loads == 0


def engine_finished(metrics: Metrics, ended: RequestRecord) -> None:
    assert metrics.work is not None
    metrics.work.on_request_finished(ended)


def test_what_is_no_longer_registered_is_forgotten() -> None:
    engine = Registered(Occupancy(0, 0, 0, 10), ())
    metrics = Metrics(100)
    metrics.attach(cast(Engine, engine), "base")
    for name in NAMES:
        engine_finished(metrics, record(name))
    engine.ids = ("a",)
    assert metrics.work is not None
    metrics.work.on_registrations_changed()
    assert parse(metrics.placement_page().decode()).work == {"a": 11.0}


@pytest.mark.parametrize("number", ["+Inf", "NaN", "-1.0", "1e300", "x"])
@pytest.mark.parametrize(
    "line",
    [
        "loramux_max_gpu_lora_adapters {}\n",
        'loramux_adapter_work_tokens_total{{adapter="a"}} {}\n',
        "loramux_adapter_load_seconds_count {}\n",
    ],
)
def test_what_is_no_count(line: str, number: str) -> None:
    rest = "vllm:max_gpu_lora_adapters 4.0\n"
    assert parse(line.format("2.0") + rest).slots in (2, 4)
    with pytest.raises(ValueError, match="is no count"):
        parse(line.format(number) + rest)


@pytest.mark.parametrize("text", ["", "<html>", "vllm:num_requests_waiting 0.0\n"])
def test_what_is_no_server_s_page(text: str) -> None:
    with pytest.raises(ValueError, match="no loramux server, or none with a base"):
        parse(text)


def test_a_name_that_does_not_end() -> None:
    line = 'loramux_adapter_work_tokens_total{adapter="'
    page = "vllm:max_gpu_lora_adapters 4.0\n" + line + "\n" + line * 1000 + '"} 1.0\n'
    assert parse(page + line + 'a"} 2.0\n').work == {"a": 2.0}
