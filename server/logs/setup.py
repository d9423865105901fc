"""One form for every line: structlog's, the standard library's, and what goes past both."""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import structlog

from .limit import LIMIT
from .line_queue import LineQueue
from .stray import StrayOutput, log_uncaught

FINISH_S = 1.0
"""Most seconds that the last lines may take at the process's end, if nobody reads them."""
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
# These warn at each start of what nobody who runs a server can change.
_IDLE_WARNINGS = ("torchao", "torch.utils._pytree")
# They warn of the headers that callers send, as often as these do.
OF_CALLERS = ("opentelemetry.trace.span", "opentelemetry.trace.propagation.tracecontext")
# What it says of calls, the HTTP front has said.
_DOUBLE = "uvicorn"
# It logs a traceback for each message that cannot be parsed.
_GRPC = "grpc._cython.cygrpc"
_encode = json.JSONEncoder().encode
_queue: LineQueue | None = None
_fast_lines: LineQueue | None = None
_stray: StrayOutput | None = None


def configure(log_format: str, level: str) -> None:
    """Send all lines to standard error in one form. In JSON, they are all that goes there.

    Once per process, and before libraries are imported which set up logs of their own.
    """
    global _queue, _fast_lines, _stray
    colors = sys.stderr.isatty()
    _queue = LineQueue(os.dup(sys.stderr.fileno()))
    _queue.setFormatter(_formatter(log_format, colors))
    logging.basicConfig(handlers=[_queue], level=level.upper(), force=True)
    logging.captureWarnings(True)
    log_uncaught()
    if log_format == "json":
        _stray = StrayOutput()
        _fast_lines = _queue if logging.root.isEnabledFor(logging.INFO) else None
    atexit.register(finish)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for idle in (*_IDLE_WARNINGS, *OF_CALLERS):
        logging.getLogger(idle).setLevel(logging.ERROR)
    logging.getLogger(_DOUBLE).setLevel(logging.CRITICAL)
    logging.getLogger(_GRPC).addFilter(LIMIT)
    structlog.configure(
        processors=[*_shared(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
    )


def adopt_libraries() -> None:
    """Take away the handlers that imported libraries gave their loggers."""
    from transformers.utils.logging import disable_progress_bar

    if not sys.stderr.isatty():
        disable_progress_bar()
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger) and logger.handlers:
            logger.handlers.clear()
            logger.propagate = True


def finish() -> None:
    """Write the lines so far, if they are read. Nothing is logged later."""
    end = time.monotonic() + FINISH_S
    LIMIT.tell()
    if _stray is not None:
        _stray.finish(FINISH_S / 4)
    if _queue is not None:
        _queue.finish(end - time.monotonic())


def write_info(event: str, fields: Mapping[str, Any]) -> bool:
    """Log a line of plain values as structlog would, for those that come by the hundred a second; False
    where lines are not JSON, or not so many are wanted."""
    if _fast_lines is None:
        return False
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    _fast_lines.put(_encode({"timestamp": now, "level": "info", "event": event, **fields}))
    return True


def lines_dropped() -> int:
    """Log lines that this process has dropped."""
    return 0 if _queue is None else _queue.dropped


def _shared() -> list[structlog.typing.Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _formatter(log_format: str, colors: bool) -> logging.Formatter:
    last: list[structlog.typing.Processor] = [structlog.dev.ConsoleRenderer(colors=colors)]
    if log_format == "json":
        last = [
            structlog.processors.format_exc_info,
            _important_first,
            structlog.processors.JSONRenderer(),
        ]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            *_shared(),
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(_EXTRA),
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )


def _important_first(
    logger: object, method: str, fields: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    return {
        name: fields.pop(name) for name in ("timestamp", "level", "event") if name in fields
    } | dict(fields)


_EXTRA = ("count", "from_output", "thread_name")
"""Fields of the lines that this folder logs by the standard library."""
