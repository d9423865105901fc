"""A worker, the process of rank 1 and up: it does what rank 0 does, in the same order, and says so
when it cannot."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from ...adapters.device import DeviceAdapter, StagedAdapter
from ...kernels.updates import ModuleDelta
from ...model.files import BaseFiles
from ...scheduling.batch import AdapterSegment
from ..backend import ModelRunner
from ..torch.backend import TorchBackend
from .messages import Forget, Forward, MakeRunner, Place, Remove, Stop, receive, send
from .process_group import Member
from .weights import LocalTensors

READY = "ready"


@dataclass(frozen=True)
class WorkerSpec:
    """Arguments that a worker's process is started with."""

    member: Member
    files: BaseFiles
    threads: int


def main(spec: WorkerSpec, steps: Connection, staging: Connection) -> None:
    """Run a worker until rank 0 ends it, or is gone: then one of the connections ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # A terminal sends these to all of its processes, but rank 0 drains first.
        signal.signal(number, signal.SIG_IGN)
    status = 0
    disable_progress_bar()
    try:
        Worker(spec, steps, staging).run()
        return
    except EOFError:
        pass
    except BaseException as error:
        status = 1
        traceback.print_exc()
        with suppress(OSError):
            send(steps, f"{type(error).__name__}: {error}")
    # Python's own way out would wait for what hangs in a collective with the others.
    os._exit(status)


class Worker:
    """Worker that mirrors runners and adapters of rank 0 by their numbers."""

    def __init__(self, spec: WorkerSpec, steps: Connection, staging: Connection) -> None:
        self._steps, self._staging, self._member = steps, staging, spec.member
        torch.set_num_threads(spec.threads)
        send(steps, READY)
        spec.member.join()
        files, member = spec.files, spec.member
        self._backend = TorchBackend(files.read_part(member.loading(), member.hook), files.config)
        self._tensors = LocalTensors(self._backend.frozen.model, member.rank, member.world)
        self._runners: dict[int, ModelRunner] = {}
        self._staged: dict[int, StagedAdapter] = {}
        self._placed: dict[int, DeviceAdapter] = {}
        threading.Thread(target=self._serve_staging, name="loramux-staging", daemon=True).start()

    def run(self) -> None:
        while not isinstance(message := receive(self._steps), Stop):
            match message:
                case Forward():
                    self._forward(message)
                case MakeRunner():
                    self._runners[message.runner] = self._backend.make_runner(message.spec)
                case Place():
                    self._placed[message.adapter] = self._backend.place(
                        self._staged[message.adapter]
                    )
                case Remove():
                    del self._placed[message.adapter]
                case Forget():
                    self._staged.pop(message.number, None)
                    self._runners.pop(message.number, None)
                case _:
                    raise TypeError(f"rank 0 sent {message!r}")
        self._member.leave()

    def _forward(self, message: Forward) -> None:
        segments = [
            AdapterSegment(start, end, self._placed[adapter], weight)
            for start, end, adapter, weight in message.segments
        ]
        batch = replace(message.batch, segments=segments)
        self._runners[message.runner].forward(batch)

    def _serve_staging(self) -> None:
        """Answer, beside steps, what rank 0's staging asks of this part of the base, and take the
        adapters' parts."""
        while True:
            try:
                method, *args = receive(self._staging)
            except EOFError:
                os._exit(0)  # rank 0 is gone, and the steps may hang in a collective with it
            try:
                with torch.inference_mode():
                    answer = getattr(self, f"_answer_{method}")(*args)
            except Exception as error:  # rank 0 raises it where it was asked
                answer = error
            send(self._staging, answer)

    def _answer_rows(self, *args: Any) -> torch.Tensor:
        return self._tensors.rows(*args)

    def _answer_squares(self, *args: Any) -> torch.Tensor:
        return self._tensors.squares(*args)

    def _answer_parameter(self, *args: Any) -> torch.Tensor:
        return self._tensors.parameter(*args)

    def _answer_held(self) -> tuple[int, int, int]:
        return len(self._staged), len(self._placed), len(self._runners)

    def _answer_stage(self, number: int, deltas: dict[str, ModuleDelta]) -> None:
        # Threads of staging and steps do not meet here: a number is told to the steps after this
        # has been answered.
        self._staged[number] = self._backend.staged(deltas)
