"""What routers decide by: how full the engine is, and which adapters it holds.

The names are those of the endpoint picker's protocol (Gateway API Inference Extension, proposal
003) and of vLLM's metrics of adapters that are loaded, vllm-project/vllm#54830.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from lora_runtime import AdapterState, Engine, ResidentAdapter

_LEVELS = {AdapterState.DEVICE: "gpu", AdapterState.HOST: "cpu"}
"""Levels as routers know them: a slot is "gpu" on every device."""


class RouterSignals(Collector):
    """Signals of one engine, their names begun with `prefix`; for any thread, without a lock.

    `also`: what else is on the routers' page.
    """

    def __init__(
        self,
        engine: Engine,
        model_name: str,
        prefix: str,
        also: Callable[[], Iterable[Metric]],
    ) -> None:
        self._engine, self._model, self._prefix, self._also = engine, model_name, prefix, also
        info = engine.info()
        self._slots, self._block_size, self._blocks = (
            info.max_adapters,
            info.kv_block_size,
            info.kv_blocks,
        )
        self._of: Sequence[ResidentAdapter] = ()
        self._resident, self._residents_text = "", b""

    def collect(self) -> Iterable[Metric]:
        residents = self._engine.residents()
        return [*self._load(_listed(residents)), *self._residency(residents)]

    def text(self) -> bytes:
        """Make the routers' page, in Prometheus' text format. What does not change between two
        scrapes is made once."""
        residents = self._engine.residents()
        if residents is not self._of or not self._residents_text:
            self._resident = _listed(residents)
            self._residents_text = _text(self._residency(residents))
            self._of = residents
        return _text(self._load(self._resident)) + self._residents_text + _text(self._also())

    def _load(self, resident: str) -> list[Metric]:
        now = self._engine.occupancy()
        blocks = self._family("cache_config_info", "KV cache.", ["block_size", "num_gpu_blocks"])
        blocks.add_metric([str(self._block_size), str(self._blocks)], 1)
        load: list[Metric] = [
            self._gauge("num_requests_waiting", "Sequences in the queue.", now.waiting),
            self._gauge("num_requests_running", "Sequences in the running batch.", now.running),
            self._gauge(
                "kv_cache_usage_perc",
                "Share of the KV blocks that live sequences hold, 0 to 1.",
                now.kv_blocks_used / self._blocks,
            ),
            blocks,
        ]
        return [*load, self._requests_info(resident, now.awaited)] if self._slots else load

    def _requests_info(self, resident: str, awaited: Iterable[str]) -> Metric:
        info = self._family(
            "lora_requests_info",
            "Adapters in a slot or on their way into one, and those that requests wait for "
            "besides; the value is the time.",
            ["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
        )
        listed = set(resident.split(","))
        waiting = ",".join(i for i in awaited if _can_be_listed(i) and i not in listed)
        info.add_metric([str(self._slots), resident, waiting], time.time())
        return info

    def _residency(self, residents: Sequence[ResidentAdapter]) -> list[Metric]:
        if not self._slots:
            return []
        loaded = self._family(
            "lora_adapter_loaded",
            "Adapters that are ready to serve: in a slot (gpu), or in host memory alone (cpu).",
            ["adapter_name", "level", "pinned", "rank"],
        )
        for adapter_id, adapter in _ready(residents).items():
            pinned = "true" if adapter.pinned else "false"
            labels = [adapter_id, _LEVELS[adapter.level], pinned, str(adapter.rank)]
            loaded.add_metric(labels, 1)
        in_slots = sum(adapter.level is AdapterState.DEVICE for adapter in residents)
        in_host = sum(adapter.staged for adapter in residents)
        return [
            loaded,
            self._gauge("num_gpu_loaded_lora_adapters", "Slots in use.", in_slots),
            self._gauge("max_gpu_lora_adapters", "Slots.", self._slots),
            self._gauge(
                "num_cpu_loaded_lora_adapters",
                "Adapter versions with a copy in host memory, those in a slot beside it included.",
                in_host,
            ),
        ]

    def _gauge(self, name: str, text: str, value: float) -> GaugeMetricFamily:
        family = self._family(name, text, ["model_name"])
        family.add_metric([self._model], value)
        return family

    def _family(self, name: str, text: str, labels: Sequence[str]) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"{self._prefix}{name}", text, labels=labels)


def _ready(residents: Iterable[ResidentAdapter]) -> dict[str, ResidentAdapter]:
    """Versions that serve, by id: of two with the same id, such as a canary, the one in a slot."""
    ready: dict[str, ResidentAdapter] = {}
    for adapter in residents:
        if adapter.in_service and adapter.level in _LEVELS:
            for adapter_id in adapter.adapter_ids:
                ready.setdefault(adapter_id, adapter)
    return ready


def _listed(residents: Iterable[ResidentAdapter]) -> str:
    """Ids of what is in a slot, or is being read for one: a router that sends the next request for
    it elsewhere would have it loaded twice."""
    return ",".join(
        sorted(
            {
                adapter_id
                for adapter in residents
                if adapter.in_service and adapter.level is not AdapterState.HOST
                for adapter_id in adapter.adapter_ids
                if _can_be_listed(adapter_id)
            }
        )
    )


def _can_be_listed(adapter_id: str) -> bool:
    """Whether routers, who part a list at its commas and trim what they find, read the id in it."""
    return "," not in adapter_id and adapter_id == adapter_id.strip()


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _text(families: Iterable[Metric]) -> bytes:
    return generate_latest(_Families(families))
