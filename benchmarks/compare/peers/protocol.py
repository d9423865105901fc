"""What every peer shares: its job file, waiting for its turn, peak memory, its result file.

Standard library only, as in the packages above: a peer runs in a virtual environment of its own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

READY = "ready"
WARM_UP_TOKENS = 8


@dataclass(frozen=True)
class Job:
    """One workload for one system. `assigned[i]` names request i's adapter, "" is the base model."""

    model: str
    prompts: list[list[int]]
    assigned: list[str]
    adapters: dict[str, str]
    """Adapter name → PEFT directory."""
    max_rank: int
    output_len: int
    repeats: int
    cores: list[int]
    options: dict[str, Any] = field(default_factory=dict)
    paced: bool = False
    """Wait for a line on standard input before each repeat and before the end, so that systems take
    turns."""


@dataclass(frozen=True)
class Run:
    """One repeat: all requests submitted at once. Times are seconds; lists go by request."""

    wall_s: float
    outputs: list[list[int]]
    ttft_s: list[float] | None = None
    """From submission to the first token."""
    decode_s: list[float] | None = None
    """From the first token to the last."""


class Peer:
    """One system, loaded and ready."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def generate(self, output_len: int) -> Run:
        raise NotImplementedError

    def details(self) -> dict[str, Any]:
        """What else belongs into the result: versions, settings, sizes."""
        return {}

    def close(self) -> None:
        """Stop what the peer has started."""


def main(kind: type[Peer]) -> None:
    """Run `JOB_FILE RESULT_FILE` from the command line."""
    job_file, result_file = (Path(a) for a in sys.argv[1:3])
    control = _take_stdout()
    job = Job(**json.loads(job_file.read_text()))
    started = time.perf_counter()
    peer = kind(job)
    try:
        peer.generate(min(WARM_UP_TOKENS, job.output_len))
        start_s = time.perf_counter() - started
        runs = []
        for _ in range(job.repeats):
            _wait_turn(job, control)
            runs.append(peer.generate(job.output_len))
        # The end of a process takes the cores for a moment, too: not while another system has its
        # turn.
        _wait_turn(job, control)
        # Read before `close`: a child's peak is gone with the child.
        result = {"start_s": start_s, "peak_rss_bytes": peak_rss_bytes(), "details": peer.details()}
    finally:
        peer.close()
    result_file.write_text(json.dumps(result | {"runs": [asdict(r) for r in runs]}))


def peak_rss_bytes() -> int:
    """Sum of the peak resident sizes of this process and all its descendants."""
    return sum(_status_kib(pid, "VmHWM") for pid in _family(os.getpid())) * 1024


def family_cpu_s(root: int) -> float:
    """Seconds of processor time that a process and its descendants have used."""
    ticks = sum(int(t) for pid in _family(root) for t in _stat(Path(f"/proc/{pid}"))[11:13])
    return ticks / os.sysconf("SC_CLK_TCK")


def rss_bytes() -> int:
    """This process's resident size now."""
    return _status_kib(os.getpid(), "VmRSS") * 1024


def _take_stdout() -> TextIO:
    """Keep the real standard output for signals to the comparison; what libraries print goes to the
    log."""
    control = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return control


def _wait_turn(job: Job, control: TextIO) -> None:
    if job.paced:
        print(READY, file=control, flush=True)
        if not sys.stdin.readline():
            raise SystemExit("the comparison has ended")


def _family(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            parent = int((_stat(entry) or ["", "0"])[1])
            children.setdefault(parent, []).append(int(entry.name))
    family = [root]
    for pid in family:  # grows while it is walked
        family += children.get(pid, [])
    return family


def _stat(entry: Path) -> list[str]:
    """A process's fields from its state on; none if it has ended."""
    try:
        # The command name, in brackets, may hold spaces.
        return (entry / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _status_kib(pid: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)
