"""What vLLM's dashboards show, from loramux's own counts: nothing is counted twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from lora_runtime import Engine

Counted = Mapping[str, Counter | Histogram]
"""Metrics by their name without the prefix of all."""

LOAD_SECONDS = {"adapter_load_seconds": "lora_adapter_load_seconds"}
_HISTOGRAMS = LOAD_SECONDS | {
    "time_to_first_token_seconds": "time_to_first_token_seconds",
    "inter_token_latency_seconds": "inter_token_latency_seconds",
    "request_seconds": "e2e_request_latency_seconds",
    "queue_seconds": "request_queue_time_seconds",
    "prefill_seconds": "request_prefill_time_seconds",
    "decode_seconds": "request_decode_time_seconds",
    "time_per_output_token_seconds": "request_time_per_output_token_seconds",
    "request_prompt_tokens": "request_prompt_tokens",
    "request_completion_tokens": "request_generation_tokens",
    "request_longest_choice_tokens": "request_max_num_generation_tokens",
    "step_tokens": "iteration_tokens_total",
}
_OLDER = {"inter_token_latency_seconds": "time_per_output_token_seconds"}
"""Names that boards made for older versions have."""
_COUNTERS = {
    "prompt_tokens": "prompt_tokens",
    "completion_tokens": "generation_tokens",
    "prefix_cache_hit_tokens": "prefix_cache_hits",
}


class BoardNames(Collector):
    """The same counts once more, under the names that boards ask for, read at the scrape."""

    def __init__(self, counted: Counted, engine: Engine, model_name: str) -> None:
        self._counted, self._engine, self._model = counted, engine, model_name

    def collect(self) -> Iterable[Metric]:
        yield from renamed(self._counted, _HISTOGRAMS, self._model)
        yield from renamed(self._counted, _OLDER, self._model)
        for name, vllm_name in _COUNTERS.items():
            yield self._summed(name, vllm_name)
        yield self._summed("prompt_tokens", "prefix_cache_queries")
        yield self._finished()
        yield from self._of_now()

    def _summed(self, name: str, vllm_name: str) -> Metric:
        """The sum over adapters: vLLM has one series for all of a base."""
        (source,) = self._counted[name].collect()
        total = sum(s.value for s in source.samples if s.name.endswith("_total"))
        return self._counter(vllm_name, source.documentation, total)

    def _finished(self) -> Metric:
        (source,) = self._counted["finished_requests"].collect()
        labels = ["model_name", "finished_reason"]
        family = CounterMetricFamily("vllm:request_success", source.documentation, labels=labels)
        for sample in source.samples:
            if sample.name.endswith("_total"):
                family.add_metric([self._model, sample.labels["reason"]], sample.value)
        return family

    def _of_now(self) -> Iterable[Metric]:
        now = self._engine.occupancy()
        family = GaugeMetricFamily(
            "vllm:gpu_cache_usage_perc", "As vllm:kv_cache_usage_perc.", labels=["model_name"]
        )
        family.add_metric([self._model], now.kv_blocks_used / now.kv_blocks_total)
        yield family
        preemptions = self._engine.stats().preemptions
        yield self._counter("num_preemptions", "Sequences preempted.", preemptions)

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"vllm:{name}", text, labels=["model_name"])
        family.add_metric([self._model], value)
        return family


def renamed(counted: Counted, names: Mapping[str, str], model_name: str) -> Iterable[Metric]:
    """Histograms under other names, as they are at this moment."""
    for name, vllm_name in names.items():
        (source,) = counted[name].collect()
        yield _as(f"vllm:{vllm_name}", source, {"model_name": model_name})


def plain(counted: Counted, names: Iterable[str]) -> Iterable[Metric]:
    """Metrics under their own names."""
    return [family for name in names for family in counted[name].collect()]


def _as(name: str, source: Metric, labels: dict[str, str]) -> Metric:
    family = Metric(name, source.documentation, source.type)
    for sample in source.samples:
        suffix = sample.name.removeprefix(source.name)
        if suffix != "_created":
            family.add_sample(name + suffix, labels | sample.labels, sample.value)
    return family
