"""Run a group's entries in turn and sum up what they measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common.paths import MODEL, ROOT
from benchmarks.common.workloads import non_embedding_parameters

from .suites import Entry, Group
from .systems import PEERS, SYSTEMS, PeerError, Worker, make_job

JUDGED_REQUESTS = 4
"""The float32 reference reads the outputs of this many requests."""
NEAR_LOGITS = 0.25
"""A token this close to the reference's best one is explained by number formats."""
MIN_NEAR_BEST = 0.98
"""Least share of such tokens. The right adapter gives 1.0; another one's output, with the adapters
here, about 0.93."""
MAX_FOREIGN_SHARE = 0.1
"""A repeat is disturbed if other processes took more of the machine."""

Row = dict[str, Any]


def run_group(group: Group, repeats: int, folder: Path) -> tuple[list[Row], list[str]]:
    """(one row per entry that worked, problems). A system that fails does not stop the others."""
    workers: dict[Entry, Worker] = {}
    problems: list[str] = []
    try:
        for entry in group.entries:
            _attempt(problems, lambda e=entry: workers.update({e: _start(e, repeats, folder)}))
        for turn in range(repeats):
            # Every other round goes backwards: whoever runs after a heavy neighbour is not always
            # the same.
            order = list(workers)[:: -1 if turn % 2 else 1]
            for entry in order:
                if not _attempt(problems, workers[entry].turn):
                    workers.pop(entry).stop()
        results = {entry: worker.finish() for entry, worker in workers.items()}
        disturbed = [w.system.name for w in workers.values() if w.foreign_share > MAX_FOREIGN_SHARE]
        if disturbed:
            print(
                f"  other processes were busy during a repeat of {', '.join(disturbed)}",
                file=sys.stderr,
                flush=True,
            )
    finally:
        for worker in workers.values():
            worker.stop()
    rows = [summarise(group, entry, result) for entry, result in results.items()]
    outputs = {entry: result["runs"][-1]["outputs"] for entry, result in results.items()}
    problems += check_agreement(rows, outputs, folder)
    return rows, problems


def _start(entry: Entry, repeats: int, folder: Path) -> Worker:
    print(f"  starting {entry.system} for {entry.workload.name}", file=sys.stderr, flush=True)
    return Worker(SYSTEMS[entry.system], entry.workload, repeats, folder)


def _attempt(problems: list[str], action: Any) -> bool:
    try:
        action()
    except PeerError as error:
        problems.append(str(error))
        return False
    return True


def summarise(group: Group, entry: Entry, result: dict[str, Any]) -> Row:
    """Medians over the repeats. Rates are tokens per second, times seconds."""
    runs, workload = result["runs"], entry.workload
    rates = [sum(map(len, r["outputs"])) / r["wall_s"] for r in runs]
    row: Row = {
        "group": group.name,
        "workload": asdict(workload),
        "system": entry.system,
        "repeats": len(runs),
        "tokens_per_s": median(rates),
        "tokens_per_s_min": min(rates),
        "tokens_per_s_max": max(rates),
        "peak_rss_bytes": result["peak_rss_bytes"],
        "start_s": result["start_s"],
        "details": result["details"],
    }
    if runs[0]["ttft_s"] is not None:
        row["ttft_s"] = median(median(r["ttft_s"]) for r in runs)
    if runs[0]["decode_s"] is not None and workload.output_len > 1:
        row["decode_tokens_per_s"] = (workload.output_len - 1) / median(
            median(r["decode_s"]) for r in runs
        )
    if workload.output_len == 1:
        row |= _prefill(workload.requests * workload.prompt_len, median(r["wall_s"] for r in runs))
    return row


def _prefill(tokens: int, seconds: float) -> Row:
    flop = 2 * non_embedding_parameters(MODEL) * tokens
    return {"prefill_tokens_per_s": tokens / seconds, "prefill_gflop_per_s": flop / seconds / 1e9}


# --- agreement --------------------------------------------------------------------------------------


def check_agreement(
    rows: list[Row], outputs: dict[Entry, list[list[int]]], folder: Path
) -> list[str]:
    """Add `leading_equal` and `near_best` to the rows; problems where a system's tokens are not the
    model's."""
    problems = []
    for workload in dict.fromkeys(e.workload for e in outputs):
        entries = {e.system: e for e in outputs if e.workload == workload}
        judged = {s: outputs[e][:JUDGED_REQUESTS] for s, e in entries.items()}
        gaps = _ask_reference(next(iter(entries.values())), judged, folder)
        reference = next((s for s in ("peft", "peft-merged") if s in entries), None)
        for row in (r for r in rows if r["workload"]["name"] == workload.name):
            system = row["system"]
            near = [gap <= NEAR_LOGITS for gap in gaps[system]]
            row["near_best"] = sum(near) / len(near)
            if reference:
                row["leading_equal"] = leading_equal(
                    outputs[entries[system]], outputs[entries[reference]]
                )
            if row["near_best"] < MIN_NEAR_BEST:
                share = f"{row['near_best']:.0%}"
                problems.append(
                    f"{system} on {workload.name}: only {share} of its tokens are the model's"
                )
    return problems


def leading_equal(outputs: list[list[int]], expected: list[list[int]]) -> float:
    """Share of tokens before the first difference, over all requests."""
    equal = sum(_common(a, b) for a, b in zip(outputs, expected, strict=True))
    return equal / sum(map(len, expected))


def _common(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(b))


def _ask_reference(
    entry: Entry, judged: dict[str, list[list[int]]], folder: Path
) -> dict[str, list[float]]:
    """By system, each token's distance from the float32 reference's best one."""
    job = asdict(make_job(SYSTEMS["peft"], entry.workload, 0)) | {"outputs": judged}
    job["assigned"] = job["assigned"][:JUDGED_REQUESTS]
    job_file, result_file, log_file = (
        folder / f"{entry.workload.name}.reference.{kind}"
        for kind in ("job.json", "result.json", "log")
    )
    job_file.write_text(json.dumps(job))
    with log_file.open("w") as log:
        subprocess.run(
            [sys.executable, "-m", f"{PEERS}.reference", str(job_file), str(result_file)],
            stdout=log,
            stderr=log,
            check=True,
            cwd=ROOT,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
    found: dict[str, list[float]] = json.loads(result_file.read_text())
    return found
