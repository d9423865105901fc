"""What loading costs those that run: 200 adapters cycle through 8 slots beside running streams.

    python -m benchmarks.adapter_life.cold_loads    # benchmarks/results/cold_loads.json, docs/results/cold-loads.png

Four pinned adapters have a long stream each, whose inter-token latency (ITL) is judged. Beside them
short requests arrive at a fixed rate: in phase A to four adapters that are in slots, in phase B
each to another of the 200, which pass through the other four slots. Prompts, lengths and times are
the same, and the phases take turns. B comes in two kinds: the adapters wait in host memory, or on
disk (`adapter_host_bytes=0`).

A cold request's time to first token (TTFT) is set against its load, in steps: its own first step is
one of those with a prefill in them, so "a step" is their median.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common.paths import MODEL, RESULTS, ROOT
from benchmarks.common.recorder import Recorder
from benchmarks.common.report import machine, percentiles, plot, save
from benchmarks.common.workloads import adapter_dir, prompt
from lora_runtime import (
    AdapterPolicy,
    BaseModel,
    Engine,
    EngineConfig,
    Request,
    RequestHandle,
    SamplingParams,
)

SLOTS, PINNED = 8, 4
STREAM_PROMPT, STREAM_LENGTH = 64, 4096
KINDS = {"r16": "rank 16, all projections", "qv8": "rank 8, q and v"}


@dataclass
class Phase:
    """What phases of one kind have measured, seconds."""

    itl: list[list[float]] = field(default_factory=list)
    """Of the streams, by repeat."""
    ttft: list[float] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)
    excess: list[float] = field(default_factory=list)
    """TTFT less the request's own load."""
    steps: list[float] = field(default_factory=list)
    prefill_steps: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        by_repeat = [percentiles(values) for values in self.itl]
        result = {
            "itl_percentiles_ms": [1e3 * median(column) for column in zip(*by_repeat, strict=True)],
            "itl_p99_ms_of_repeats": [1e3 * p[98] for p in by_repeat],
            "step_p50_ms": 1e3 * median(self.steps),
            "prefill_step_p50_ms": 1e3 * median(self.prefill_steps),
            "loads": len(self.loads),
        }
        for name, values in (("ttft", self.ttft), ("load", self.loads), ("excess", self.excess)):
            if values:
                found = percentiles(values)
                result |= {f"{name}_p50_ms": 1e3 * found[49], f"{name}_p99_ms": 1e3 * found[98]}
        return result


class Experiment:
    """One engine whose streams go on through a phase while short requests come."""

    def __init__(
        self, base: BaseModel, kind: str, host_bytes: int, args: argparse.Namespace
    ) -> None:
        self._args = args
        names = [f"{kind}-{i:04d}" for i in range(PINNED + args.adapters)]
        self._pinned, self._cold = names[:PINNED], names[PINNED:]
        self._next_cold = cycle(self._cold)
        self._recorder = Recorder()
        self._engine = Engine(
            base,
            EngineConfig(
                max_adapters=SLOTS,
                adapter_host_bytes=host_bytes,
                prefix_caching=False,
                kv_cache_bytes=512 << 20,
            ),
        )
        self._engine.add_observer(self._recorder)

    def run(self) -> tuple[Phase, Phase]:
        """(without loads, with loads)."""
        resident, cold = Phase(), Phase()
        with self._engine:
            self._load_all()
            for repeat in range(self._args.repeats):
                for phase in (resident, cold)[:: -1 if repeat % 2 else 1]:
                    self._phase(phase, phase is cold)
        return resident, cold

    def _load_all(self) -> None:
        for name in self._pinned:
            self._engine.load_adapter(
                adapter_dir(name, MODEL), name, policy=AdapterPolicy(pinned=True)
            )
        for name in self._cold:
            self._engine.load_adapter(adapter_dir(name, MODEL), name)

    def _phase(self, phase: Phase, cold: bool) -> None:
        stay = self._cold[: SLOTS - PINNED]
        if not cold:
            for name in stay:  # back into their slots
                self._engine.generate(self._request(0, name))
        names = (
            islice(self._next_cold, self._args.requests)
            if cold
            else islice(cycle(stay), self._args.requests)
        )
        streams = [
            self._engine.submit(self._stream(i, name)) for i, name in enumerate(self._pinned)
        ]
        for handle in streams:
            next(iter(handle))
        self._recorder.clear()
        asked = self._send(list(names))
        for handle in streams:
            handle.cancel()
        self._recorder.wait_for({h.request_id for h in streams})
        self._collect(phase, streams, asked)

    def _send(self, names: Sequence[str]) -> dict[str, str]:
        """Request id → adapter, in the order of arrival; returns when all have ended."""
        started, asked = time.perf_counter(), {}
        for i, name in enumerate(names):
            time.sleep(max(0.0, started + i / self._args.rate - time.perf_counter()))
            asked[f"short-{i}"] = name
            self._engine.submit(self._request(i, name))
        self._recorder.wait_for(set(asked))
        return asked

    def _collect(
        self, phase: Phase, streams: Sequence[RequestHandle], asked: dict[str, str]
    ) -> None:
        found = self._recorder
        phase.itl.append([gap for h in streams for gap in found.gaps.get(h.request_id, [])])
        phase.steps += [s.duration_s for s in found.steps]
        phase.prefill_steps += [s.duration_s for s in found.steps if s.tokens > s.sequences]
        for request_id, name in asked.items():
            ttft = found.records[request_id].ttft_s
            assert ttft is not None
            phase.ttft.append(ttft)
            if name in found.load_s:
                phase.loads.append(found.load_s[name])
            phase.excess.append(ttft - found.load_s.get(name, 0.0))

    def _request(self, number: int, name: str) -> Request:
        args = self._args
        sampling = SamplingParams(max_new_tokens=args.output_len, ignore_eos=True)
        tokens = tuple(prompt(MODEL, PINNED + number, args.prompt_len))
        return Request(
            token_ids=tokens, adapter_id=name, sampling=sampling, request_id=f"short-{number}"
        )

    def _stream(self, number: int, name: str) -> Request:
        sampling = SamplingParams(max_new_tokens=STREAM_LENGTH, ignore_eos=True)
        tokens = tuple(prompt(MODEL, number, STREAM_PROMPT))
        return Request(
            token_ids=tokens, adapter_id=name, sampling=sampling, request_id=f"stream-{number}"
        )


def compare(resident: Phase, cold: Phase) -> dict[str, Any]:
    """Both phases and what is judged; the ratio is the median over the repeats."""
    a, b = resident.summary(), cold.summary()
    ratios = [
        y / x for x, y in zip(a["itl_p99_ms_of_repeats"], b["itl_p99_ms_of_repeats"], strict=True)
    ]
    return {
        "resident": a,
        "cold": b,
        "itl_p99_ratio": median(ratios),
        "itl_p99_ratios": ratios,
        "itl_p50_ratio": b["itl_percentiles_ms"][49] / a["itl_percentiles_ms"][49],
        "excess_steps": b["excess_p50_ms"] / b["prefill_step_p50_ms"],
    }


def show(name: str, result: dict[str, Any]) -> None:
    a, b = result["resident"], result["cold"]
    print(
        f"{name}: ITL p50 {a['itl_percentiles_ms'][49]:.1f} → {b['itl_percentiles_ms'][49]:.1f} ms, p99 "
        f"{a['itl_percentiles_ms'][98]:.1f} → {b['itl_percentiles_ms'][98]:.1f} ms (ratio "
        f"{result['itl_p99_ratio']:.3f} of {', '.join(f'{r:.2f}' for r in result['itl_p99_ratios'])}); TTFT p50 "
        f"{a['ttft_p50_ms']:.1f} → {b['ttft_p50_ms']:.1f} ms, {b['loads']} loads of {b.get('load_p50_ms', 0):.1f} "
        f"ms, TTFT - load: {b['excess_p50_ms']:.1f} ms = {result['excess_steps']:.2f} steps of "
        f"{b['prefill_step_p50_ms']:.1f} ms (all steps: {b['step_p50_ms']:.1f} ms)",
        flush=True,
    )


def main() -> None:
    args = _arguments()
    base = BaseModel.load(MODEL)
    report: dict[str, Any] = {
        "machine": machine(),
        "settings": {k: v for k, v in vars(args).items() if k not in ("json", "png")},
        "slots": SLOTS,
        "pinned": PINNED,
        "variants": {},
    }
    for kind in args.kinds:
        for place in args.places:
            name = f"{KINDS[kind]}, cold {'in host memory' if place == 'host' else 'on disk'}"
            host_bytes = 4 << 30 if place == "host" else 0
            result = compare(*Experiment(base, kind, host_bytes, args).run())
            report["variants"][name] = result
            show(name, result)
            save(report, args.json)
    plot("benchmarks.adapter_life.plot_cold_loads", args.json, args.png)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.adapter_life.cold_loads",
        description=(__doc__ or "").partition("\n\n")[0],
    )
    parser.add_argument("--adapters", type=int, default=200)
    parser.add_argument("--requests", type=int, default=100, help="Short requests of a phase.")
    parser.add_argument("--rate", type=float, default=8, help="Of the short requests, a second.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompt-len", type=int, default=32)
    parser.add_argument("--output-len", type=int, default=8)
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=["r16", "qv8"])
    parser.add_argument("--places", nargs="+", choices=["host", "disk"], default=["host", "disk"])
    parser.add_argument("--json", type=Path, default=RESULTS / "cold_loads.json")
    parser.add_argument("--png", type=Path, default=ROOT / "docs/results/cold-loads.png")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
