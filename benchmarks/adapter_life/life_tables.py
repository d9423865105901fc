"""Write the tables of docs/results/adapter-life.md and tenants.md from the results of cold_loads,
tenants and storm.

    python -m benchmarks.adapter_life.life_tables

A result that is not there leaves its table as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from benchmarks.common.paths import RESULTS, ROOT
from benchmarks.common.tables import fill, table

PAGES = ("adapter-life.md", "tenants.md")


def main() -> None:
    results = {name: RESULTS / f"{name}.json" for name in _TABLES}
    tables = {
        name: _TABLES[name](json.loads(path.read_text()))
        for name, path in results.items()
        if path.exists()
    }
    for page in PAGES:
        fill(ROOT / "docs/results" / page, tables)


def cold_loads(report: dict[str, Any]) -> str:
    rows = []
    for name, result in report["variants"].items():
        a, b = result["resident"], result["cold"]
        load = f"{b['load_p50_ms']:.0f}" if "load_p50_ms" in b else "–"
        rows.append(
            (
                name,
                _change(a["itl_percentiles_ms"][49], b["itl_percentiles_ms"][49]),
                _change(a["itl_percentiles_ms"][98], b["itl_percentiles_ms"][98]),
                f"{result['itl_p99_ratio']:.2f}",
                load,
                _change(a["ttft_p50_ms"], b["ttft_p50_ms"]),
                f"{result['excess_steps']:.1f}",
            )
        )
    return table(
        (
            "adapters",
            "ITL p50, ms",
            "ITL p99, ms",
            "p99 ratio",
            "load p50, ms",
            "TTFT p50, ms",
            "TTFT − load, steps",
        ),
        rows,
    ) + _machine(report)


def tenants(report: dict[str, Any]) -> str:
    rows = []
    for mode, result in report["modes"].items():
        cells = [_times(result.get(tenant)) for tenant in ("light", "heavy")]
        ratio = report["light_p99_ratios"].get(mode)
        rows.append(
            (
                mode,
                *cells,
                "1" if ratio is None else f"{ratio:.1f}",
                f"{result['output_tokens_per_s']:.0f}",
            )
        )
    return table(
        (
            "",
            "light: TTFT p50, p99 ms",
            "heavy: TTFT p50, p99 ms",
            "light p99 / alone",
            "output tokens/s",
        ),
        rows,
    ) + _machine(report)


def storm(report: dict[str, Any]) -> str:
    moves, outcomes, settings = report["movements"], report["outcomes"], report["settings"]
    rows = [
        (
            "adapter ids, slots, threads",
            f"{settings['ids']}, {settings['slots']}, {settings['threads']}",
        ),
        (
            "seconds, steps, preemptions",
            f"{report['seconds']:.0f}, {report['steps']:,}, {report['preemptions']:,}",
        ),
        ("answers checked, tokens", f"{report['checked_answers']:,}, {report['checked_tokens']:,}"),
        (
            "cancelled, past their deadline",
            " ".join(
                f"{outcomes.get(name, 0):,},"
                for name in ("RequestCancelledError", "RequestTimeoutError")
            ).rstrip(","),
        ),
        (
            "adapters read, evicted, replaced, unloaded",
            ", ".join(
                f"{moves.get(name, 0):,}" for name in ("loaded", "evicted", "replaced", "unloaded")
            ),
        ),
        ("broken files refused", f"{outcomes.get('broken files refused', 0):,}"),
        ("wrong answers and unexpected errors", str(len(report["failures"]))),
        ("leases, holds, blocks, bytes, files, threads left", str(len(report["leaks"]))),
    ]
    return table(("", ""), rows)


def _times(tenant: dict[str, Any] | None) -> str:
    return "–" if tenant is None else f"{tenant['ttft_p50_ms']:,.0f}, {tenant['ttft_p99_ms']:,.0f}"


def _change(before: float, after: float) -> str:
    return f"{before:.1f} → {after:.1f}"


def _machine(report: dict[str, Any]) -> str:
    about = report["machine"]
    return f"\n{about['cores']} cores of {about['cpu']}, {about['model']}, {about['date']}.\n"


_TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "cold_loads": cold_loads,
    "tenants": tenants,
    "storm": storm,
}


if __name__ == "__main__":
    main()
