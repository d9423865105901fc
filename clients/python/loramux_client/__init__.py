"""Client of a loramux server: typed calls, sync and async, over one channel.

It needs grpcio and protobuf alone. The messages are in the package `loramux`.
"""

from .aio import AsyncClient, AsyncStream
from .client import Client, Stream
from .errors import CallError, FieldViolation
from .version import __version__

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "CallError",
    "Client",
    "FieldViolation",
    "Stream",
    "__version__",
]
