"""The names that boards made for vLLM ask for: there once, with loramux's own counts."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from server.metrics import Metrics

from ..support.servers import Harness, make_settings, running

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
BOARD = {
    "vllm:e2e_request_latency_seconds": "loramux_request_seconds",
    "vllm:time_to_first_token_seconds": "loramux_time_to_first_token_seconds",
    "vllm:inter_token_latency_seconds": "loramux_inter_token_latency_seconds",
    "vllm:time_per_output_token_seconds": "loramux_inter_token_latency_seconds",
    "vllm:request_time_per_output_token_seconds": "loramux_time_per_output_token_seconds",
    "vllm:request_queue_time_seconds": "loramux_queue_seconds",
    "vllm:request_prefill_time_seconds": "loramux_prefill_seconds",
    "vllm:request_decode_time_seconds": "loramux_decode_seconds",
    "vllm:request_prompt_tokens": "loramux_request_prompt_tokens",
    "vllm:request_generation_tokens": "loramux_request_completion_tokens",
    "vllm:request_max_num_generation_tokens": "loramux_request_longest_choice_tokens",
    "vllm:iteration_tokens_total": "loramux_step_tokens",
    "vllm:lora_adapter_load_seconds": "loramux_adapter_load_seconds",
}
"""Histograms on boards, and what they are made of."""


def samples(metrics: Metrics) -> Samples:
    """All of a page; no sample is on it twice."""
    text = generate_latest(metrics.shown).decode()
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


async def ask(served: Harness) -> None:
    for n in (1, 3):
        fields = {"prompt": "hi", "max_new_tokens": 5, "ignore_eos": True, "n": n}
        await served.generate(adapter_id="a0", **fields)
    await served.generate(prompt="a longer prompt", max_new_tokens=1)
    stream = served.stream(prompt="hi", max_new_tokens=500, ignore_eos=True)
    for _ in range(2):  # so that it has more tokens than one
        await stream.read()
    stream.cancel()
    with pytest.raises(grpc.aio.AioRpcError):
        await served.generate(prompt="")
    await served.idle_stats()


async def test_a_board_shows_what_was_counted(
    tiny_base: Path, tiny_adapters: dict[str, Path]
) -> None:
    one = {"a0": tiny_adapters["a0"]}
    async with running(make_settings(tiny_base, one)) as served:
        await ask(served)
        found = samples(served.app.metrics)
    model = served.app.settings.base.rpartition("/")[2]

    def value(name: str, **labels: str) -> float:
        return found[f"vllm:{name}", frozenset({"model_name": model, **labels}.items())]

    for name, source in BOARD.items():
        of_board = {
            (key.removeprefix(name), labels - {("model_name", model)}): v
            for (key, labels), v in found.items()
            if key in {f"{name}_bucket", f"{name}_sum", f"{name}_count"}
        }
        own = {
            (key.removeprefix(source), labels): v
            for (key, labels), v in found.items()
            if key in {f"{source}_bucket", f"{source}_sum", f"{source}_count"}
        }
        assert of_board == own != {}, name
        assert value(f"{name.removeprefix('vllm:')}_count") > 0, name
    assert value("generation_tokens_total") == sum(
        v for (name, _), v in found.items() if name == "loramux_completion_tokens_total"
    )
    assert value("prompt_tokens_total") == value("prefix_cache_queries_total") > 0
    assert value("prefix_cache_hits_total") >= 0
    assert value("request_success_total", finished_reason="length") == 3
    assert value("request_success_total", finished_reason="abort") == 1
    assert value("request_max_num_generation_tokens_sum") < value("request_generation_tokens_sum")
    assert value("request_time_per_output_token_seconds_count") == 3  # of more tokens than one
    assert value("num_preemptions_total") == 0
    assert value("num_requests_running") == value("num_requests_waiting") == 0
    assert value("kv_cache_usage_perc") == value("gpu_cache_usage_perc") == 0


@pytest.mark.parametrize(
    ("names", "there"),
    [
        ("loramux", {"loramux", "process"}),
        ("vllm", {"vllm"}),
        ("loramux,vllm", {"loramux", "vllm", "process"}),
    ],
    ids=["own", "vllm", "both"],
)
async def test_names_that_are_not_wanted_are_not_there(
    tiny_base: Path, names: str, there: set[str]
) -> None:
    settings = make_settings(tiny_base, metrics_names=names.split(","))
    async with running(settings) as served:
        found = samples(served.app.metrics)
    assert {name.replace(":", "_").partition("_")[0] for name, _ in found} == there
    prefix = "vllm:" if "vllm" in there else "loramux_"
    assert any(name == f"{prefix}lora_requests_info" for name, _ in found)
