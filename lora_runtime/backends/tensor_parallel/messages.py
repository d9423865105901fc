"""Messages from rank 0 to its workers, in the order in which it does these things itself."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from ...scheduling.batch import StepBatch
from ..backend import RunnerSpec


@dataclass(frozen=True)
class MakeRunner:
    """Order to make a KV cache and the runner of steps on it, known as `runner` from now on."""

    runner: int
    spec: RunnerSpec


@dataclass(frozen=True)
class Place:
    """Order to bring an adapter from host memory to the device."""

    adapter: int


@dataclass(frozen=True)
class Remove:
    """Order to take an adapter off the device."""

    adapter: int


@dataclass(frozen=True)
class Forget:
    """Order to drop an adapter's staged copy, or a runner, that rank 0 has no more."""

    number: int


@dataclass(frozen=True)
class Forward:
    """Order to run a step: `batch` without what rank 0 alone knows; `segments`: (start, end,
    adapter, weight)."""

    runner: int
    batch: StepBatch
    segments: tuple[tuple[int, int, int, float], ...]


@dataclass(frozen=True)
class Stop:
    """Order to a worker to end."""


def send(connection: Connection, message: Any) -> None:
    """Send a message as plain pickle: multiprocessing's own would move tensors into shared memory,
    one file for each."""
    connection.send_bytes(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))


def receive(connection: Connection) -> Any:
    """Receive a message. Raises EOFError when the other side has ended."""
    return pickle.loads(connection.recv_bytes())
