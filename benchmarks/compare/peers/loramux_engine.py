"""loramux's engine in this process. `options` are EngineConfig fields."""

from __future__ import annotations

import time
from typing import Any

from lora_runtime import (
    Engine,
    EngineConfig,
    EngineObserver,
    Request,
    RequestRecord,
    SamplingParams,
)

from .protocol import Job, Peer, Run, main, rss_bytes


class _Records(EngineObserver):
    """The engine's own times by request id: no reader thread per request takes part in what is
    measured."""

    def __init__(self) -> None:
        self.by_id: dict[str, RequestRecord] = {}

    def on_request_finished(self, record: RequestRecord) -> None:
        self.by_id[record.request_id] = record


class Loramux(Peer):
    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._imports_rss = rss_bytes()
        self._records = _Records()
        # Without the prefix cache: a repeat of the same prompts would skip their prefill.
        settings = {
            "dtype": "bfloat16",
            "prefix_caching": False,
            "max_adapters": max(1, len(job.adapters)),
        }
        settings |= {"max_running": max(64, len(job.prompts))} | job.options
        self._engine = Engine(job.model, EngineConfig(**settings))
        self._engine.add_observer(self._records)
        self._engine.start()
        for name, path in job.adapters.items():
            self._engine.load_adapter(path, name)

    def generate(self, output_len: int) -> Run:
        sampling = SamplingParams(max_new_tokens=output_len, ignore_eos=True)
        requests = [
            Request(token_ids=tuple(prompt), adapter_id=name, sampling=sampling, request_id=str(i))
            for i, (prompt, name) in enumerate(
                zip(self.job.prompts, self.job.assigned, strict=True)
            )
        ]
        started = time.perf_counter()
        handles = [self._engine.submit(r) for r in requests]
        outputs = [list(h.result().choices[0].token_ids) for h in handles]
        wall_s = time.perf_counter() - started
        records = [self._records.by_id[r.request_id] for r in requests]
        return Run(
            wall_s, outputs, [r.ttft_s or 0.0 for r in records], [r.decode_s for r in records]
        )

    def details(self) -> dict[str, Any]:
        info, stats, base = self._engine.info(), self._engine.stats(), self._engine.base.config
        element = 4 if info.dtype == "float32" else 2
        heads = base.num_key_value_heads * base.head_dim
        return {
            "version": info.version,
            "dtype": info.dtype,
            "kernels": info.kernels,
            "expected_rss_bytes": {
                "interpreter and imports": self._imports_rss,
                "weights": info.num_parameters * element,
                "KV cache": info.kv_blocks
                * info.kv_block_size
                * base.num_hidden_layers
                * 2
                * heads
                * element,
                "adapters": stats.adapter_bytes,
            },
        }

    def close(self) -> None:
        self._engine.shutdown()


if __name__ == "__main__":
    main(Loramux)
