"""Structured logs: one JSON object a line, with the request's id. Prompts are never logged."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog
from transformers.utils.logging import disable_progress_bar

from lora_runtime import MAX_ID_LENGTH, AdapterInfo, EngineObserver, Request, RequestRecord

log = structlog.get_logger("loramux.server")
# Below a warning these log whole URLs too, with the keys in their queries.
_NOISY = (
    "asyncio",
    "filelock",
    "urllib3",
    "httpx",
    "httpcore",
    "httpx2",
    "httpcore2",
    "aiohttp",
    "fsspec",
    "s3fs",
    "gcsfs",
    "adlfs",
    "azure",
    "botocore",
    "aiobotocore",
)


def configure(log_format: str, level: str) -> None:
    """Send structlog's and the standard library's lines to standard error in one form."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.typing.Processor] = [
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    ]
    if log_format == "json":
        last = [
            structlog.processors.format_exc_info,
            _important_first,
            structlog.processors.JSONRenderer(),
        ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    if not sys.stderr.isatty():
        disable_progress_bar()
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
    )


def _important_first(
    logger: object, method: str, fields: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    return {
        name: fields.pop(name) for name in ("timestamp", "level", "event") if name in fields
    } | dict(fields)


class RequestLog(EngineObserver):
    """A line for each finished request and each adapter that comes or goes."""

    def on_request_finished(self, record: RequestRecord) -> None:
        log.info(
            "request finished",
            request_id=record.request_id,
            adapter=record.adapter_id,
            version=record.adapter_version[:12],
            **_composition(record),
            outcome=record.outcome,
            prompt_tokens=record.prompt_tokens,
            cached_tokens=record.cached_tokens,
            completion_tokens=record.completion_tokens,
            queue_ms=_ms(record.queue_s),
            adapter_wait_ms=_ms(record.adapter_wait_s),
            e2e_ms=_ms(record.e2e_s),
            ttft_ms=_ms(record.ttft_s),
        )

    def on_request_rejected(self, request: Request, error: Exception) -> None:
        log.warning(
            "request rejected",
            request_id=request.request_id,
            adapter="+".join(use.adapter_id for use in request.uses)[:MAX_ID_LENGTH],
            error=str(error),
        )

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

    def on_adapter_failed(self, adapter_id: str, error: Exception) -> None:
        log.error("adapter failed", adapter=adapter_id, error=str(error), kind=type(error).__name__)

    def on_engine_failed(self, error: BaseException) -> None:
        log.critical("engine failed", error=repr(error))


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
