"""What a GPU shows of loramux in minutes: `python3 -m benchmarks.gpu.lease`, from the repository's
root.

Nothing is installed, and nothing is needed but torch, triton and transformers. Stages run one after
the other, the most telling first, each in a process of its own with a limit of its own; every
result is in OUT/lease.json as soon as it is there. A stage that fails, hangs or is killed costs no
other. Without a GPU the same runs at tiny sizes in Triton's interpreter: that shows that kernels
and stages work, and its times mean nothing.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu.predictions import found_in, lines
from benchmarks.gpu.session.process import StageProcess
from benchmarks.gpu.session.results import DONE, NO_TIME, UNAVAILABLE, WRONG, Results, read_results
from benchmarks.gpu.stages import NAMES, STAGES, Stage
from benchmarks.gpu.summary import show
from benchmarks.gpu.ways_out import ways_out

ROOT = Path(__file__).parents[2]
CARRIED = ROOT / ".bench/lease"
_RESERVE_S = 6.0
"""Of the budget, for the table at the end."""
_LEAST_S = 5.0
"""A stage that would have less is left to the next lease."""
_UNLIMITED_S = 3600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 if all stages that ran came to their end with nothing wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", choices=["cuda", "cpu"], help="default: cuda where there is one"
    )
    parser.add_argument("--stages", default=",".join(NAMES), help=f"some of {','.join(NAMES)}")
    parser.add_argument(
        "--budget-s", type=float, help="seconds for all; default: 540, on a CPU 0: no limits"
    )
    parser.add_argument(
        "--skip-done",
        type=Path,
        metavar="JSON",
        help="go on where this lease on the same card ended",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(os.environ.get("OUT") or CARRIED / "out"),
        help="for lease.json, lease.log, the Triton cache; default: $OUT, or .bench/lease/out",
    )
    parser.add_argument(
        "--carried", type=Path, default=CARRIED, help="what `benchmarks.gpu.carry` made"
    )
    parser.add_argument(
        "--repeats", type=int, default=0, help="of each timing; default: 20, on a CPU 1"
    )
    options = parser.parse_args(arguments)
    wanted = [name.strip() for name in options.stages.split(",")]
    if unknown := set(wanted) - set(NAMES):
        parser.error(f"--stages: {', '.join(sorted(unknown))} is none of {', '.join(NAMES)}")
    if options.budget_s is not None and not 0 <= options.budget_s < _UNLIMITED_S:
        parser.error(f"--budget-s: {options.budget_s:g} is not in [0, {_UNLIMITED_S:g})")
    if options.repeats < 0:
        parser.error(f"--repeats: {options.repeats} is negative")
    try:
        earlier = read_results(options.skip_done) if options.skip_done else None
        options.out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    # What the figures depend on is always looked at: a second lease may have got another card.
    stages = [stage for stage in STAGES if stage.name in (STAGES[0].name, *wanted)]
    return Lease(options).run(stages, earlier)


class Lease:
    """One run. `device`: cuda or cpu, where there is no GPU."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.started = time.monotonic()
        self.device: str = options.device or ("cuda" if _has_gpu() else "cpu")
        real = self.device == "cuda"
        self.repeats: int = options.repeats or (20 if real else 1)
        self.budget_s: float = (
            options.budget_s if options.budget_s is not None else 540.0 if real else 0.0
        )
        self.limited = real or bool(options.budget_s)
        self.out, self.carried = options.out.resolve(), options.carried.resolve()
        self.log = self.out / "lease.log"
        self.log.write_bytes(b"")
        # What comes back from a machine may be gone there by the next call, which is to go on from
        # it.
        for directory in (self.out, self.carried):
            if (last := directory / "lease.json").exists():
                last.replace(directory / "lease-before.json")
        self.results = Results(
            (self.out / "lease.json", self.carried / "lease.json"),
            {"started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())},
        )
        self.environment: dict[str, str] = {}
        """Of all stages: a way out that was taken."""
        self.process: StageProcess | None = None
        os.environ["TRITON_CACHE_DIR"] = str(self.carried / "triton")
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = (
            "1"  # or asking for a GPU would spoil this process for forks
        )
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        if not real:
            os.environ["TRITON_INTERPRET"] = "1"
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self.forks = _preload()
        """Whether stages are forked from this process."""

    def run(self, stages: Sequence[Stage], earlier: dict[str, Any] | None) -> int:
        """Run `stages`, the first of which tells the machine; `earlier`: the JSON of a lease to go
        on from."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _raise)
        try:
            self._run_all(stages, earlier)
        except (KeyboardInterrupt, SystemExit):
            print("ended from outside", flush=True)
        finally:
            if self.process is not None:
                self.process.kill()
                self.results.end_running()
            self.results.data["table"] = [
                asdict(line) for line in lines(found_in(self.results.data))
            ]
            self.results.write()
        print(show(self.results.data), flush=True)
        print(f"wrote {self.out / 'lease.json'}", flush=True)
        ran = {s.name: self.results.status(s.name) for s in stages}
        return 0 if set(ran.values()) <= {DONE, UNAVAILABLE} else 1

    def _run_all(self, stages: Sequence[Stage], earlier: dict[str, Any] | None) -> None:
        self.results.data["before"] = (earlier or {}).get(
            "stages", {}
        )  # should this lease be ended at once
        self._run(stages[0])
        if self.forks and self.results.status(stages[0].name) not in (DONE, WRONG, NO_TIME):
            print(
                "once more, started anew: an import may have spoiled the GPU for forks", flush=True
            )
            self.forks = False
            self._run(stages[0])
        if earlier is not None:
            self._take_over(earlier)
        del self.results.data["before"]
        for stage in stages[1:]:
            if self.results.complete(stage.name):
                print(f"== {stage.name}: done before", flush=True)
                continue
            self._run(stage)
            told = self.results.status(stage.name)
            if (
                stage.name == "stress"
                and told.startswith(("wrong", "failed", "killed"))
                and not self.environment
            ):
                self._find_way_out(stage)
        self._pack()

    def _take_over(self, earlier: dict[str, Any]) -> None:
        ours, theirs = (
            found_in(data).get("environment", {}).get("machine", {})
            for data in (self.results.data, earlier)
        )
        if ours.get("device") != theirs.get("device"):
            print(
                f"nothing is taken over: that was measured on {theirs.get('device')}, this is {ours.get('device')}",
                flush=True,
            )
            return
        for what in ("code", "torch", "triton"):
            if ours.get(what) != theirs.get(what):
                print(
                    f"NOTE: what is taken over was measured with {what} {theirs.get(what)}, this is {ours.get(what)}",
                    flush=True,
                )
        now = self.results.data["stages"].pop("environment")
        self.results.resume(earlier)
        self.results.data["stages"]["environment"] = now
        self.environment = dict(earlier.get("way_out", {}))
        if self.environment:
            self.results.data["way_out"] = self.environment

    def _find_way_out(self, stage: Stage) -> None:
        """Try what avoids a wrong kernel, and run all that follows with the first that does."""
        for name, environment in ways_out().items():
            if self._run(stage, key=f"stress, {name}", environment=environment):
                print(f"from here on: {environment}", flush=True)
                self.environment = self.results.data["way_out"] = dict(environment)
                return

    def _run(self, stage: Stage, key: str = "", environment: dict[str, str] | None = None) -> bool:
        """Whether it ended with nothing wrong."""
        key, environment = (
            key or stage.name,
            {**self.environment, **(environment or {}), **stage.environment},
        )
        limit = self._limit(stage)
        self.results.begin(key, limit)
        if limit < _LEAST_S:
            self.results.end(key, NO_TIME, 0)
            print(f"== {key}: no time", flush=True)
            return False
        print(f"== {key} (at most {limit:.0f} s)", flush=True)
        started, mark = time.monotonic(), self.log.stat().st_size
        job = {
            "stage": stage.name,
            "module": stage.module,
            "device": self.device,
            "repeats": self.repeats,
            "out": self.out,
            "carried": self.carried,
            "limit_s": limit,
            "environment": environment,
            # Of its own rows those of this very run: with another environment all are to be found
            # anew.
            "found": {name: self.results.rows(name) for name in self.results.data["stages"]}
            | {stage.name: self.results.rows(key)},
        }
        fork = self.forks and not stage.fresh and not environment
        self.process = StageProcess(job, self.log, fork=fork)

        def keep(row: dict[str, Any]) -> None:
            self.results.add(key, row)
            print(f"   {_line(row)}", flush=True)

        status = self.process.wait(limit, keep)
        self.process = None
        if status == DONE and self.results.wrong(key):
            status = WRONG
        told = "" if status == DONE else _tail(self.log, mark)
        code = found_in(self.results.data).get(STAGES[0].name, {}).get("machine", {}).get("code")
        more = {"log": told} if told else {}
        self.results.end(key, status, time.monotonic() - started, code=code, **more)
        print(f"== {key}: {status}, {time.monotonic() - started:.0f} s", flush=True)
        if told and status != "cut":
            print("\n".join(f"   | {line}" for line in told.splitlines()[-6:]), flush=True)
        return status == DONE

    def _pack(self) -> None:
        """Bring Triton's cache back once more: launches have added what their first calls compile."""
        if self.results.status("compiling") and not self.results.data["stages"]["compiling"].get(
            "earlier"
        ):
            from benchmarks.gpu.compiling.cache import NAME, pack

            pack(Path(os.environ["TRITON_CACHE_DIR"]), self.out / NAME)

    def _limit(self, stage: Stage) -> float:
        limit = stage.limit_s if self.limited else _UNLIMITED_S
        if self.budget_s:
            limit = min(limit, self.budget_s - _RESERVE_S - (time.monotonic() - self.started))
        return max(0.0, limit)


def _preload() -> bool:
    """Import what stages need, so that forked ones have it at once; False where that fails."""
    try:
        from benchmarks.gpu import preload  # noqa: F401
    except Exception as error:  # the stages will say so themselves
        print(f"stages are started one by one: {type(error).__name__}: {error}", flush=True)
        return False
    return True


def _has_gpu() -> bool:
    """Without asking the driver, which would spoil this process for forks."""
    return any(
        Path(path).exists()
        for path in ("/dev/nvidiactl", "/dev/nvidia0", "/proc/driver/nvidia/version")
    )


def _line(row: dict[str, Any]) -> str:
    """A row for the terminal: what says most, short."""
    shown = {
        k: v
        for k, v in row.items()
        if isinstance(v, int | float | str | bool) and k not in ("name", "earlier")
    }
    parts = [f"{k} {v:,.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items()]
    return f"{row['name']}: {', '.join(parts)}"[:180]


def _tail(log: Path, mark: int) -> str:
    """The end of what was logged after `mark`."""
    with log.open("rb") as stream:
        stream.seek(mark)
        return stream.read().decode(errors="replace")[-3000:]


def _raise(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
