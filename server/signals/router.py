"""What routers decide by: how full the engine is, and which adapters it holds.

The names are those of the endpoint picker's protocol (Gateway API Inference Extension, proposal
003) and of vLLM's metrics of adapters that are loaded, vllm-project/vllm#54830.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from lora_runtime import AdapterState, Engine, Occupancy, ResidentAdapter

_LEVELS = {AdapterState.DEVICE: "gpu", AdapterState.HOST: "cpu"}
"""Levels as routers know them: a slot is "gpu" on every device."""
_LOAD = {
    "num_requests_waiting": "Sequences in the queue.",
    "num_requests_running": "Sequences in the running batch.",
    "kv_cache_usage_perc": "Share of the KV blocks that live sequences hold, 0 to 1.",
}
LOADED_LABELS = ("adapter_name", "level", "pinned", "rank")


class RouterSignals(Collector):
    """Signals of one engine, their names begun with `prefix`; for any thread, without a lock."""

    def __init__(self, engine: Engine, model_name: str, prefix: str) -> None:
        self.engine, self._model, self._prefix = engine, model_name, prefix
        info = engine.info()
        self.slots, self._slot_bytes = info.max_adapters, info.memory.adapters
        self._block_size, self._blocks = info.kv_block_size, info.kv_blocks

    def collect(self) -> Iterable[Metric]:
        residents, now = self.engine.residents(), self.engine.occupancy()
        families = [*self.load(now), self.cache()]
        if self.slots:
            families += [self.requests_info(residents, listed(residents), now.awaited)]
            families += [self.loaded(residents), *self.counts(residents)]
        return families

    def load(self, now: Occupancy) -> list[Metric]:
        """Make the families of one value that changes with every step."""
        return [
            self._gauge(name, text, value)
            for (name, text), value in zip(_LOAD.items(), self.load_values(now), strict=True)
        ]

    def load_values(self, now: Occupancy) -> tuple[float, ...]:
        """Values of `load`, in its order."""
        return now.waiting, now.running, now.kv_blocks_used / self._blocks

    def cache(self) -> Metric:
        """Make the family that never changes."""
        cache = self._family("cache_config_info", "KV cache.", ["block_size", "num_gpu_blocks"])
        cache.add_metric([str(self._block_size), str(self._blocks)], 1)
        return cache

    def requests_info(
        self, residents: Sequence[ResidentAdapter], resident: str, awaited: Iterable[str]
    ) -> Metric:
        """Make the lists that the LoRA scorer reads; `resident` as `listed` gives it."""
        info = self._family(
            "lora_requests_info",
            "Adapters in a slot or on their way into one, and those that requests wait for "
            "besides; the value is the time.",
            ["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
        )
        there = set(resident.split(","))
        waiting = ",".join(i for i in awaited if _can_be_listed(i) and i not in there)
        info.add_metric([str(self._most(residents)), resident, waiting], time.time())
        return info

    def loaded(self, residents: Iterable[ResidentAdapter]) -> Metric:
        """Make the family of adapters that are ready to serve."""
        loaded = self._family(
            "lora_adapter_loaded",
            "Adapters that are ready to serve: in a slot (gpu), or in host memory alone (cpu).",
            LOADED_LABELS,
        )
        for labels in loaded_labels(residents):
            loaded.add_metric(labels, 1)
        return loaded

    def counts(self, residents: Sequence[ResidentAdapter]) -> list[Metric]:
        """Make the families that count slots and copies."""
        return [
            self._gauge(
                "num_gpu_loaded_lora_adapters", "Slots in use.", len(_sizes_in_slots(residents))
            ),
            self._gauge("max_gpu_lora_adapters", "Slots.", self._most(residents)),
            self._gauge(
                "num_cpu_loaded_lora_adapters",
                "Adapter versions with a copy in host memory, those in a slot beside it included.",
                sum(adapter.staged for adapter in residents),
            ),
        ]

    def _most(self, residents: Iterable[ResidentAdapter]) -> int:
        """Slots, or those in use once their bytes have no room for one more of the mean size."""
        sizes = _sizes_in_slots(residents)
        if self._slot_bytes and sizes and sum(sizes) + sum(sizes) / len(sizes) > self._slot_bytes:
            return len(sizes)
        return self.slots

    def _gauge(self, name: str, text: str, value: float) -> GaugeMetricFamily:
        family = self._family(name, text, ["model_name"])
        family.add_metric([self._model], value)
        return family

    def _family(self, name: str, text: str, labels: Sequence[str]) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"{self._prefix}{name}", text, labels=labels)


def listed(residents: Iterable[ResidentAdapter]) -> str:
    """Ids of what is in a slot, or is being read for one: a router that sends the next request for
    it elsewhere would have it loaded twice."""
    ids = {
        adapter_id
        for adapter in residents
        if adapter.in_service and adapter.level is not AdapterState.HOST
        for adapter_id in adapter.adapter_ids
        if _can_be_listed(adapter_id)
    }
    return ",".join(sorted(ids))


def _sizes_in_slots(residents: Iterable[ResidentAdapter]) -> list[int]:
    return [adapter.num_bytes for adapter in residents if adapter.level is AdapterState.DEVICE]


def loaded_labels(residents: Iterable[ResidentAdapter]) -> Iterable[tuple[str, str, str, str]]:
    """Labels of what is ready to serve, once for each id: of two versions that serve it, such as a
    canary, those of the one in a slot."""
    seen: set[str] = set()
    for adapter in residents:
        level = _LEVELS.get(adapter.level) if adapter.in_service else None
        if level is None:
            continue
        pinned, rank = "true" if adapter.pinned else "false", str(adapter.rank)
        for adapter_id in adapter.adapter_ids:
            if adapter_id not in seen:
                seen.add(adapter_id)
                yield adapter_id, level, pinned, rank


def _can_be_listed(adapter_id: str) -> bool:
    """Whether routers, who part a list at its commas and trim what they find, read the id in it."""
    return "," not in adapter_id and adapter_id == adapter_id.strip()
