"""Tools that send a load, each a program of its own, and how their reports are read."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.common.paths import ROOT
from benchmarks.common.report import percentiles

from .loads import ADAPTER, PROMPT, Load, Said

PROTOS = ROOT / "protos"
PROTO = "loramux/v1/inference.proto"
_SCRIPT = Path(__file__).parent / "load.js"
_TIMEOUT_S = 600


def missing() -> list[str]:
    """Name the programs that are not there."""
    return [name for name in ("ghz", "k6") if shutil.which(name) is None]


def ghz(load: Load, port: int, folder: Path) -> Said:
    report = folder / "ghz.json"
    command = ["ghz", "--insecure", "--proto", str(PROTOS / PROTO), "--import-paths", str(PROTOS)]
    command += ["--call", f"loramux.v1.Inference.{load.method}", "--count-errors"]
    command += ["-n", str(load.calls), "-c", str(load.concurrency), "--timeout", f"{_TIMEOUT_S}s"]
    command += ["--async", "--rps", str(load.rate)] if load.rate else []
    command += ["--data", json.dumps(load.request()), "-O", "json", "-o", str(report)]
    cpu_s = _run([*command, f"127.0.0.1:{port}"])
    said = json.loads(report.read_text())
    taken = [call["latency"] / 1e6 for call in said["details"]]
    at = percentiles(taken)
    return Said(
        rps=said["rps"],
        mean=sum(taken) / len(taken),
        p50=at[49],
        p90=at[89],
        p99=at[98],
        statuses=said["statusCodeDistribution"],
        cpu_s=cpu_s,
    )


def k6(load: Load, port: int, folder: Path) -> Said:
    report = folder / "k6.json"
    settings = {
        "TARGET": f"127.0.0.1:{port}",
        "PROTOS": PROTOS,
        "PROTO": PROTO,
        "METHOD": load.method,
        "REQUEST": json.dumps(load.request()),
        "CALLS": load.calls,
        "VUS": load.concurrency,
        "RATE": load.rate or 0,
        "REPORT": report,
    }
    flags = [flag for name, value in settings.items() for flag in ("--env", f"{name}={value}")]
    cpu_s = _run(["k6", "run", "--quiet", "--no-usage-report", *flags, str(_SCRIPT)])
    said = json.loads(report.read_text())
    taken, tokens = said["taken"], said["first"]
    return Said(
        rps=taken["count"] / said["seconds"],
        mean=taken["avg"],
        p50=taken["med"],
        p90=taken["p(90)"],
        p99=taken["p(99)"],
        statuses=said["statuses"],
        cpu_s=cpu_s,
        ttft_p50=tokens and tokens["med"],
        ttft_p99=tokens and tokens["p(99)"],
        itl_mean=tokens and said["gap"]["avg"],
        itl_p99=tokens and said["gap"]["p(99)"],
    )


def bench(load: Load, port: int, folder: Path) -> Said:
    report = folder / "bench.json"
    command = [sys.executable, "-m", "server", "bench", f"--target=127.0.0.1:{port}"]
    command += [f"--calls={load.calls}", f"--concurrency={load.concurrency}", "--warmup=0"]
    command += [f"--rate={load.rate}", "--arrivals=constant"] if load.rate else []
    command += [f"--adapter={ADAPTER}", f"--prompt={PROMPT}", f"--max-new-tokens={load.tokens}"]
    command += ["--ignore-eos", "--stream" if load.stream else "--unary", f"--out={report}"]
    cpu_s = _run(command)
    said = json.loads(report.read_text())["total"]
    taken, first, gap = said["latency_ms"], said["ttft_ms"], said["itl_ms"]
    return Said(
        rps=said["calls_per_s"],
        mean=taken["mean"],
        p50=taken["p50"],
        p90=taken["p90"],
        p99=taken["p99"],
        statuses=said["statuses"],
        cpu_s=cpu_s,
        ttft_p50=first and first["p50"],
        ttft_p99=first and first["p99"],
        itl_mean=gap and gap["mean"],
        itl_p99=gap and gap["p99"],
    )


Tool = Callable[[Load, int, Path], Said]
TOOLS: dict[str, Tool] = {"ghz": ghz, "k6": k6, "loramux bench": bench}


def _run(command: Sequence[str]) -> float:
    """Run a tool; gives the seconds of a core that it took."""
    before = _children_s()
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=_TIMEOUT_S)
    if ran.returncode:
        raise SystemExit(f"{command[0]} failed:\n{ran.stdout}{ran.stderr}")
    return _children_s() - before


def _children_s() -> float:
    """Processor time of children that have ended: of tools, not of the server, which runs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
