"""Metrics that the engine knows best at the moment of the scrape."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from lora_runtime import AdapterState, Engine

from .lifecycle.readiness import NotReady, Readiness, ServerState
from .logs import lines_dropped


class EngineGauges(Collector):
    """Gauges of one engine. `has_label` bounds which adapters get a time series of their own."""

    def __init__(self, engine: Engine, has_label: Callable[[str], bool]) -> None:
        self._engine = engine
        self._has_label = has_label

    def collect(self) -> list[GaugeMetricFamily]:
        return [*self._load(), self._slots(), self._versions(), *self._limits(), self._about()]

    def _load(self) -> list[GaugeMetricFamily]:
        stats, step = self._engine.stats(), self._engine.running_step()
        gauges = [
            ("running_sequences", "Sequences in the running batch.", stats.running),
            ("waiting_sequences", "Sequences in the queue.", stats.waiting),
            ("kv_blocks_used", "KV blocks held by live sequences.", stats.kv_blocks_used),
            (
                "kv_blocks_cached",
                "Unused KV blocks that hold a reusable prefix.",
                stats.kv_blocks_cached,
            ),
            ("kv_blocks", "KV blocks in all.", stats.kv_blocks_total),
            (
                "registered_adapters",
                "Adapter ids, wherever their weights are.",
                stats.registered_adapters,
            ),
            ("loading_adapters", "Adapters that are being read.", stats.loading_adapters),
            (
                "out_of_service_adapters",
                "Adapter versions that steps fail with: to be loaded again.",
                stats.out_of_service_adapters,
            ),
            ("resident_adapters", "Adapter versions on the device.", stats.adapters),
            ("resident_adapter_bytes", "Bytes of the versions on the device.", stats.adapter_bytes),
            ("host_adapters", "Adapter versions in host memory only.", stats.host_adapters),
            (
                "host_adapter_bytes",
                "Bytes of the versions in host memory only.",
                stats.host_adapter_bytes,
            ),
            ("adapter_leases", "Requests that hold an adapter.", stats.leases),
            ("preemptions", "Sequences preempted since start.", stats.preemptions),
            ("running_step_seconds", "Age of the step that runs.", step.age_s if step else 0),
        ]
        return [
            GaugeMetricFamily(f"loramux_{name}", text, value=value) for name, text, value in gauges
        ]

    def _slots(self) -> GaugeMetricFamily:
        in_slots = self._engine.running_sequences().values()
        running = sum(map(bool, in_slots))
        counts = {
            "running": running,
            "idle": len(in_slots) - running,
            "free": self._engine.info().max_adapters - len(in_slots),
        }
        slots = GaugeMetricFamily(
            "loramux_adapter_slots",
            "Slots: with sequences that run, with an idle adapter, free.",
            labels=["state"],
        )
        for state, count in counts.items():
            slots.add_metric([state], count)
        return slots

    def _limits(self) -> list[GaugeMetricFamily]:
        info = self._engine.info()
        limits = [
            ("max_running_sequences", "Limit of the running batch.", info.max_running),
            ("max_waiting_sequences", "Limit of the queue.", info.max_waiting),
            (
                "max_host_adapter_bytes",
                "Limit of adapters in host memory.",
                self._engine.config.adapter_host_bytes,
            ),
        ]
        memory = GaugeMetricFamily(
            "loramux_device_memory_bytes",
            "Plan of the device's memory; total, used, steps and graphs are measured on GPUs alone.",
            labels=["part"],
        )
        for part, size in vars(info.memory).items():
            memory.add_metric([part], size)
        return [
            *(GaugeMetricFamily(f"loramux_{name}", text, value=v) for name, text, v in limits),
            memory,
        ]

    def _versions(self) -> GaugeMetricFamily:
        family = GaugeMetricFamily(
            "loramux_adapter_version_info",
            "Versions that serve from a slot, canaries too.",
            labels=["adapter", "version"],
        )
        for resident in self._engine.residents():
            if resident.level is AdapterState.DEVICE and resident.in_service:
                for adapter_id in filter(self._has_label, resident.adapter_ids):
                    family.add_metric([adapter_id, resident.version], 1)
        return family

    def _about(self) -> GaugeMetricFamily:
        info = self._engine.info()
        labels = {
            "version": info.version,
            "base_model": info.base_model,
            "device": info.device,
            "dtype": info.dtype,
            **{f"kernel_{op}": name for op, name in info.kernels.items()},
        }
        about = GaugeMetricFamily("loramux_info", "What runs.", labels=list(labels))
        about.add_metric(list(labels.values()), 1)
        return about


class ReadinessGauges(Collector):
    """Gauges: whether the server is ready, and for what it waits."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    def collect(self) -> list[GaugeMetricFamily]:
        ready = GaugeMetricFamily(
            "loramux_ready",
            "1 while health is SERVING.",
            value=float(self._readiness.state is ServerState.READY),
        )
        reasons = GaugeMetricFamily(
            "loramux_not_ready",
            "What keeps the server from being ready; of declared adapters and places how many.",
            labels=["reason"],
        )
        counts = self._readiness.reasons()
        for reason in NotReady:
            reasons.add_metric([reason.value], counts[reason])
        return [ready, reasons]


class LogLines(Collector):
    """Count of this process's log lines that nobody will read."""

    def collect(self) -> list[CounterMetricFamily]:
        text = "Log lines dropped, since standard error was not read."
        return [CounterMetricFamily("loramux_log_lines_dropped", text, value=lines_dropped())]
