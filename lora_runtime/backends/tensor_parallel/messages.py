"""What rank 0 tells its followers, in the order in which it does these things itself."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from ...scheduling.batch import StepBatch
from ..backend import RunnerSpec


@dataclass(frozen=True)
class MakeRunner:
    """A KV cache and what steps on it, known as `runner` from now on."""

    runner: int
    spec: RunnerSpec


@dataclass(frozen=True)
class Place:
    """From host memory to the device."""

    adapter: int


@dataclass(frozen=True)
class Remove:
    """Off the device."""

    adapter: int


@dataclass(frozen=True)
class Forget:
    """An adapter's staged copy, or a runner, that rank 0 has no more."""

    number: int


@dataclass(frozen=True)
class Forward:
    """`batch` without what rank 0 alone knows; `segments`: (start, end, adapter, weight)."""

    runner: int
    batch: StepBatch
    segments: tuple[tuple[int, int, int, float], ...]


@dataclass(frozen=True)
class Stop:
    """The end of a follower's life."""


def send(connection: Connection, message: Any) -> None:
    """Plain pickle: multiprocessing's own would move tensors into shared memory, one file for each."""
    connection.send_bytes(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))


def receive(connection: Connection) -> Any:
    """Raises EOFError when the other side has ended."""
    return pickle.loads(connection.recv_bytes())
