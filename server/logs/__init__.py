"""Logs: lines that are dropped rather than waited for, in one form from the first to the last.

May import: lora_runtime, tracing.
"""

from .limit import LineLimit, allowed, limited
from .request_log import RequestLog
from .setup import adopt_libraries, configure, finish, lines_dropped

__all__ = [
    "LineLimit",
    "RequestLog",
    "adopt_libraries",
    "allowed",
    "configure",
    "finish",
    "limited",
    "lines_dropped",
]
