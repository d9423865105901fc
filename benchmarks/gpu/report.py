"""The short table of a gpu-check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def show(report: dict[str, Any]) -> str:
    """All parts that the report has, in lines for a terminal."""
    about = report["machine"]
    lines = [f"{about['device']}, torch {about['torch']}, triton {about['triton']}, base {report['shape']['name']}"
             + (", in Triton's interpreter: times mean nothing" if about["interpreter"] else "")]
    for part, section in _SECTIONS.items():
        if part in report:
            lines += ["", *section(report[part])]
    failures = report["failures"]
    lines += ["", *(f"FAILED {failure}" for failure in failures)] if failures else ["", "all good"]
    return "\n".join(lines)


def _tests(found: dict[str, Any]) -> list[str]:
    return [f"tests ({', '.join(found['targets'])}): {found['summary']}"]


def _ceilings(found: dict[str, float]) -> list[str]:
    return [f"measured: {found['bandwidth'] / 1e9:,.0f} GB/s, {found['rate'] / 1e12:,.1f} TFLOP/s"]


def _errors(rows: Sequence[dict[str, Any]]) -> list[str]:
    return _columns(("against float64", "dtype", "kernel", "torch", ""), [
        (r["name"], r["dtype"], f"{r['error']:.1e}", f"{r['reference']:.1e}", "" if r["good"] else "TOO FAR")
        for r in rows])


def _kernels(rows: Sequence[dict[str, Any]]) -> list[str]:
    return _columns(("kernel", "us", "limit", "of limit", "GB/s", "TFLOP/s"), [
        (r["name"], f"{r['us']:,.1f}", f"{r['limit_us']:,.1f}", f"{r['of_limit']:.0%}", f"{r['gb_per_s']:,.0f}",
         f"{r['tflop_per_s']:,.1f}") for r in rows])


def _steps(rows: Sequence[dict[str, Any]]) -> list[str]:
    return _columns(("step", "ms", "device", "gap", "limit", "of limit", "tokens/s", "x base", "limit x"), [
        (r["name"], f"{r['ms']:,.2f}", _milliseconds(r.get("device_ms")), _milliseconds(r.get("gap_ms")),
         f"{r['limit_ms']:,.2f}", f"{r['of_limit']:.0%}", f"{r['tokens_per_s']:,.0f}",
         f"{r['overhead']:.2f}" if r["overhead"] else "", f"{r['overhead_limit']:.2f}" if r["overhead"] else "")
        for r in rows])


def _loads(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = []
    for r in rows:
        if "load_ms" in r:
            lines.append(f"{r['name']}: {r['load_ms']:,.1f} ms each; ITL p50 {r['itl_p50_ms']:,.1f} → "
                         f"{r['itl_p50_loading_ms']:,.1f} ms, p99 {r['itl_p99_ms']:,.1f} → "
                         f"{r['itl_p99_loading_ms']:,.1f} ms")
        else:
            lines.append(f"{r['name']}: {r['bytes'] / 1e6:,.2f} MB in {r['ms']:,.2f} ms ({r['gb_per_s']:,.1f} GB/s), "
                         f"enqueued in {r['enqueue_ms']:,.2f} ms")
    return lines


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f}"


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cells[i]) for cells in (head, *rows)) for i in range(len(head))]
    return ["  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
            for cells in (head, *rows)]


_SECTIONS: dict[str, Callable[[Any], list[str]]] = {
    "tests": _tests, "ceilings": _ceilings, "errors": _errors, "kernels": _kernels, "steps": _steps, "loads": _loads}
