"""A line for each finished request and each adapter that comes or goes. Prompts are never logged."""

from __future__ import annotations

import logging
import random
from typing import Any

import structlog

from lora_runtime import AdapterInfo, EngineObserver, RequestRecord

from ..tracing.request import log_fields
from .limit import limited
from .setup import write_info

log = structlog.get_logger("loramux.server")
_ALWAYS = ("error", "timeout")


class RequestLog(EngineObserver):
    """Log of `share` of the finished requests, and of all that failed or took too long.

    Requests that were refused are logged where their call ends: not all of them reach the engine.
    """

    def __init__(self, share: float = 1.0) -> None:
        self._share = share

    def on_request_finished(self, record: RequestRecord) -> None:
        if record.outcome not in _ALWAYS and random.random() >= self._share:
            return
        fields = _fields(record)
        if not write_info("request finished", fields):
            log.info("request finished", **fields)

    def on_adapter_loaded(self, info: AdapterInfo, seconds: float) -> None:
        log.info(
            "adapter loaded",
            adapter=info.adapter_id,
            version=info.version[:12],
            modules=len(info.modules),
            max_rank=info.max_rank,
            bytes=info.num_bytes,
            seconds=round(seconds, 3),
        )

    def on_adapter_evicted(self, info: AdapterInfo, reason: str) -> None:
        log.info(
            "adapter evicted", adapter=info.adapter_id, version=info.version[:12], reason=reason
        )

    def on_adapter_out_of_service(self, info: AdapterInfo) -> None:
        log.error(
            "adapter out of service",
            adapter=info.adapter_id,
            version=info.version[:12],
            error=info.error,
        )

    def on_adapter_failed(self, adapter_id: str, error: Exception) -> None:
        limited(
            "adapter failed",
            "adapter failed",
            level=logging.ERROR,
            adapter=adapter_id,
            error=str(error),
            kind=type(error).__name__,
        )

    def on_engine_failed(self, error: BaseException) -> None:
        log.critical("engine failed", error=repr(error))


def _fields(record: RequestRecord) -> dict[str, Any]:
    return {
        "request_id": record.request_id,
        "adapter": record.adapter_id,
        "version": record.adapter_version[:12],
        **_composition(record),
        "outcome": record.outcome,
        "prompt_tokens": record.prompt_tokens,
        "cached_tokens": record.cached_tokens,
        "completion_tokens": record.completion_tokens,
        "queue_ms": _ms(record.queue_s),
        "adapter_wait_ms": _ms(record.adapter_wait_s),
        "e2e_ms": _ms(record.e2e_s),
        "ttft_ms": _ms(record.ttft_s),
        **log_fields(record),
    }


def _composition(record: RequestRecord) -> dict[str, list[dict[str, Any]]]:
    """Fields of a composition of adapters; one adapter at weight 1 has the line's own fields
    `adapter` and `version`."""
    if record.adapter_id or not record.adapters:
        return {}
    return {
        "adapters": [
            {"id": a.adapter_id, "version": a.version[:12], "weight": a.weight}
            for a in record.adapters
        ]
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 2)
