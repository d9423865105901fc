"""What a scrape of /metrics shows."""

from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path

import grpc
import pytest
from loramux.v1 import adapters_pb2
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from lora_runtime import Engine

from ..support.device import ON_GPU
from ..support.servers import free_port, make_settings, running


async def scrape(port: int) -> dict[tuple[str, frozenset], float]:
    def get() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
            return response.read().decode()

    families = text_string_to_metric_families(await asyncio.to_thread(get))
    return {(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples}


async def test_scrape(tiny_base: Path, tiny_adapters: dict[str, Path], adapter_root: Path) -> None:
    port = free_port()
    two = {name: tiny_adapters[name] for name in ("a0", "a1")}
    async with running(
        make_settings(tiny_base, two, metrics_port=port, adapter_roots=[adapter_root])
    ) as served:
        prompt = "a prompt that is longer than one block"
        for _ in range(2):
            await served.generate(adapter_id="a0", prompt=prompt, max_new_tokens=5, ignore_eos=True)
        await served.generate(prompt="hi", max_new_tokens=3, ignore_eos=True)
        with pytest.raises(grpc.aio.AioRpcError):
            await served.generate(prompt="")
        composed = await served.generate(
            adapters=[{"adapter_id": "a0"}, {"adapter_id": "a1"}],
            prompt="hi",
            max_new_tokens=3,
            ignore_eos=True,
        )
        version = composed.adapters[0].version
        with pytest.raises(grpc.aio.AioRpcError):
            await served.adapters.LoadAdapter(
                adapters_pb2.LoadAdapterRequest(path=".", adapter_id="bad")
            )
        await served.adapters.UnloadAdapter(adapters_pb2.UnloadAdapterRequest(adapter_id="a1"))
        await served.idle_stats()
        samples = await scrape(port)

    def value(name: str, **labels: str) -> float:
        return samples[f"loramux_{name}", frozenset(labels.items())]

    assert value("requests_total", adapter="a0", outcome="ok") == 2
    assert value("requests_total", adapter="base", outcome="ok") == 1
    assert value("requests_rejected_total", reason="InvalidRequest") == 1
    assert value("completion_tokens_total", adapter="a0") == 10
    assert value("prefix_cache_hit_tokens_total", adapter="a0") == 32
    assert value("time_to_first_token_seconds_count") == 4
    assert value("inter_token_latency_seconds_count") == 4 + 4 + 2 + 2
    assert value("queue_seconds_count") == value("request_seconds_count") == 4
    assert value("step_sequences_count") == value("step_distinct_adapters_count") > 10
    assert value("adapter_loads_total") == 2
    assert value("adapter_evictions_total", reason="unloaded") == 1
    assert value("adapter_load_failures_total") == 1
    assert value("adapter_wait_seconds_count") == 3
    assert value("adapter_wait_seconds_bucket", le="0.0") == 3, "all found theirs in a slot"
    assert value("adapter_time_to_first_token_seconds_count", adapter="a0") == 2
    assert value("generated_tokens_total") == 5 + 5 + 3 + 3
    assert value("prefill_tokens_total") >= len(prompt) + 2 + 2
    assert value("adapter_slots", state="idle") == 1
    assert value("adapter_slots", state="running") == 0
    assert value("adapter_slots", state="free") == served.app.engine.info().max_adapters - 1
    assert value("max_waiting_sequences") == served.app.engine.info().max_waiting
    assert value("max_running_sequences") == served.app.engine.info().max_running
    assert value("device_memory_bytes", part="kv_cache") > 0
    assert samples["process_resident_memory_bytes", frozenset()] > 0
    assert samples["process_start_time_seconds", frozenset()] > 0
    assert value("requests_total", adapter="composition", outcome="ok") == 1
    assert value("resident_adapters") == value("registered_adapters") == 1
    assert (
        value("host_adapters") == (value("host_adapter_bytes") > 0) == ON_GPU
    )  # on a CPU its slot is host memory
    assert value("loading_adapters") == 0
    assert value("adapter_version_info", adapter="a0", version=version) == 1
    assert [labels for name, labels in samples if name == "loramux_adapter_version_info"] == [
        frozenset({"adapter": "a0", "version": version}.items())
    ]
    assert value("resident_adapter_bytes") > 0
    assert value("running_sequences") == value("waiting_sequences") == value("adapter_leases") == 0
    assert value("kv_blocks") > value("kv_blocks_used") == 0
    assert value("kv_blocks_cached") > 0
    assert value("engine_failed") == value("log_lines_dropped_total") == 0
    assert value("rpcs_total", method="loramux.v1.Adapters/LoadAdapter", code="INVALID_ARGUMENT")
    (info,) = [dict(labels) for name, labels in samples if name == "loramux_info"]
    assert info["kernel_lora"].startswith(("torch/", "cpp/", "triton"))


async def test_the_digest_tells_what_is_served(
    tiny_base: Path, tiny_adapters: dict[str, Path]
) -> None:
    async with running(make_settings(tiny_base, {"a0": tiny_adapters["a0"]})) as served:
        engine = served.app.engine

        def digest() -> float | None:
            return served.app.metrics.registry.get_sample_value("loramux_adapters_digest")

        first = digest()
        engine.load_adapter(tiny_adapters["a1"], "b")
        with_more = digest()
        engine.load_adapter(tiny_adapters["a2"], "b", canary_weight=0.5)
        with_a_canary = digest()
        assert len({first, with_more, with_a_canary}) == 3
        engine.set_canary("b", 0)
        assert digest() == with_more
        engine.unload_adapter("b")
        assert digest() == first


async def test_label_cardinality_is_bounded(
    tiny_base: Path, tiny_adapters: dict[str, Path]
) -> None:
    async with running(make_settings(tiny_base, tiny_adapters, metrics_adapter_labels=3)) as served:
        for name in tiny_adapters:
            await served.generate(adapter_id=name, prompt="hi", max_new_tokens=1)
        for i in range(20):
            with pytest.raises(grpc.aio.AioRpcError):
                await served.generate(adapter_id=f"made-up-{i}", prompt="hi")
        await served.idle_stats()
        families = served.app.metrics.registry.collect()
        labels = {s.labels["adapter"] for f in families for s in f.samples if "adapter" in s.labels}
    assert labels == {"a0", "a1", "a2", "other"}


async def test_a_scrape_takes_no_longer_for_adapters_in_no_slot(
    tiny_base: Path, tiny_adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {"a0": tiny_adapters["a0"]}
    async with running(make_settings(tiny_base, one, max_adapters=2)) as served:
        engine = served.app.engine
        current = engine.get_adapter("a0").version
        canary = engine.load_adapter(tiny_adapters["a1"], "a0", canary_weight=0.5).canary
        assert canary is not None
        monkeypatch.delattr(Engine, "list_adapters")  # there may be thousands
        text = generate_latest(served.app.metrics.registry).decode()
    shown = [line for line in text.splitlines() if line.startswith("loramux_adapter_version_info{")]
    assert sorted(shown) == sorted(
        f'loramux_adapter_version_info{{adapter="a0",version="{version}"}} 1.0'
        for version in (current, canary.version)
    )
