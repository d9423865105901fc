"""Two tenants of one engine, one of them with 20 times the other's load: what the light one waits.

    python -m benchmarks.adapter_life.tenants    # benchmarks/results/tenants.json, docs/results/tenants.png

Both send requests of the same lengths at random times (Poisson), the heavy one far more than the
machine can serve. The light tenant's time to first token (TTFT) is compared with that of the same
requests when it is alone: with the fair queue, and with a queue that is first come, first served.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common.paths import MODEL, RESULTS, ROOT
from benchmarks.common.recorder import Recorder
from benchmarks.common.report import machine, percentiles, plot, save
from benchmarks.common.workloads import adapter_dir, prompt
from lora_runtime import AdapterPolicy, BaseModel, Engine, EngineConfig, Request, SamplingParams

from .open_loop import arrival_times

LIGHT, HEAVY = "light", "heavy"
ADAPTERS = {LIGHT: "r16-0000", HEAVY: "r16-0001"}
_QUEUE_S = 40
MODES = ("alone", "fair", "first come, first served")


def schedule(args: argparse.Namespace, capacity: float) -> list[tuple[float, str, int, int]]:
    """(seconds, tenant, prompt tokens, output tokens) of every request, in the order of arrival."""
    heavy_rate = args.overload * capacity
    light_rate = heavy_rate / args.ratio
    rng, found = random.Random(args.seed), []
    for tenant, rate, count in (
        (LIGHT, light_rate, args.requests),
        (HEAVY, heavy_rate, args.requests * args.ratio),
    ):
        for at in arrival_times("poisson", rate, count, seed=len(found)):
            found.append((at, tenant, rng.randint(*args.prompt_len), rng.randint(*args.output_len)))
    last = max(at for at, tenant, *_ in found if tenant == LIGHT)
    return sorted(request for request in found if request[0] <= last)


class Tenants:
    """One engine with both adapters."""

    def __init__(self, base: BaseModel, mode: str, args: argparse.Namespace) -> None:
        self._mode, self._args = mode, args
        self._recorder = Recorder()
        self._engine = Engine(
            base,
            EngineConfig(
                prefix_caching=False,
                max_running=args.max_running,
                max_batch_tokens=args.max_batch_tokens,
                max_waiting=1 << 20,
            ),
        )
        if mode == MODES[2]:
            self._engine._scheduler.waiting.served = lambda tenant: (
                0.0
            )  # as if all were one tenant's
        self._engine.add_observer(self._recorder)

    def run(self, requests: list[tuple[float, str, int, int]]) -> dict[str, Any]:
        """Until the last of the light tenant's requests is done."""
        with self._engine:
            self._load()
            started, light = time.perf_counter(), set()
            for i, (at, tenant, prompt_len, output_len) in enumerate(requests):
                if self._mode == "alone" and tenant == HEAVY:
                    continue
                time.sleep(max(0.0, started + at - time.perf_counter()))
                request = self._request(i, tenant, prompt_len, output_len)
                self._engine.submit(request)
                if tenant == LIGHT:
                    light.add(request.request_id)
            self._recorder.wait_for(light)
            seconds = time.perf_counter() - started
        return self._summary(seconds)

    def capacity(self) -> float:
        """Requests a second when there are always more."""
        args, count = self._args, 2 * self._args.max_running
        rng = random.Random(args.seed)
        with self._engine:
            self._load()
            requests = [
                self._request(
                    i, HEAVY, rng.randint(*args.prompt_len), rng.randint(*args.output_len)
                )
                for i in range(count)
            ]
            started = time.perf_counter()
            for request in requests:
                self._engine.submit(request)
            self._recorder.wait_for({r.request_id for r in requests})
            return count / (time.perf_counter() - started)

    def _load(self) -> None:
        for tenant, name in ADAPTERS.items():
            policy = AdapterPolicy(max_running=self._args.tenant_running)
            self._engine.load_adapter(adapter_dir(name, MODEL), tenant, policy=policy)
        self._engine.warm_up()
        self._recorder.clear()

    def _request(self, number: int, tenant: str, prompt_len: int, output_len: int) -> Request:
        return Request(
            token_ids=tuple(prompt(MODEL, number, prompt_len)),
            adapter_id=tenant,
            request_id=f"{tenant}-{number}",
            sampling=SamplingParams(max_new_tokens=output_len, ignore_eos=True),
        )

    def _summary(self, seconds: float) -> dict[str, Any]:
        done = [r for r in self._recorder.records.values() if r.outcome == "ok"]
        result: dict[str, Any] = {
            "seconds": seconds,
            "output_tokens_per_s": sum(r.completion_tokens for r in done) / seconds,
            "prompt_tokens_per_s": sum(r.prompt_tokens for r in done) / seconds,
            "step_p50_ms": 1e3 * median(s.duration_s for s in self._recorder.steps),
        }
        for tenant in (LIGHT, HEAVY):
            ttft = [r.ttft_s for r in done if r.adapter_id == tenant and r.ttft_s is not None]
            if ttft:
                found = percentiles(ttft)
                result[tenant] = {
                    "requests": len(ttft),
                    "ttft_percentiles_ms": [1e3 * v for v in found],
                    "ttft_p50_ms": 1e3 * found[49],
                    "ttft_p99_ms": 1e3 * found[98],
                }
        return result


def show(report: dict[str, Any]) -> None:
    for mode, result in report["modes"].items():
        parts = [
            f"{tenant} TTFT p50 {r['ttft_p50_ms']:.0f} p99 {r['ttft_p99_ms']:.0f} ms ({r['requests']})"
            for tenant in (LIGHT, HEAVY)
            if (r := result.get(tenant))
        ]
        print(f"{mode}: {', '.join(parts)}; {result['output_tokens_per_s']:.0f} output tokens/s")
    for mode, ratio in report["light_p99_ratios"].items():
        print(f"light tenant's TTFT p99, {mode} / alone: {ratio:.2f}")


def main() -> None:
    args = _arguments()
    base = BaseModel.load(MODEL)
    capacity = Tenants(base, "fair", args).capacity()
    requests = schedule(args, capacity)
    print(
        f"capacity {capacity:.1f} requests/s; {len(requests)} requests in {requests[-1][0]:.0f} s",
        file=sys.stderr,
    )
    modes = {}
    for mode in args.modes:
        # Behind the heavy tenant's queue a light request waits the longer, the longer this runs:
        # some of it will do.
        until = _QUEUE_S if mode == MODES[2] else requests[-1][0]
        modes[mode] = Tenants(base, mode, args).run([r for r in requests if r[0] <= until])
    report = {
        "machine": machine(),
        "settings": {k: v for k, v in vars(args).items() if k not in ("json", "png")},
        "capacity_requests_per_s": capacity,
        "modes": modes,
        "light_p99_ratios": {
            mode: result[LIGHT]["ttft_p99_ms"] / modes["alone"][LIGHT]["ttft_p99_ms"]
            for mode, result in modes.items()
            if mode != "alone" and "alone" in modes
        },
    }
    show(report)
    save(report, args.json)
    plot("benchmarks.adapter_life.plot_tenants", args.json, args.png)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.adapter_life.tenants",
        description=(__doc__ or "").partition("\n\n")[0],
    )
    parser.add_argument("--requests", type=int, default=60, help="Of the light tenant.")
    parser.add_argument(
        "--ratio",
        type=int,
        default=20,
        help="The heavy tenant's requests for one of the light one.",
    )
    parser.add_argument(
        "--overload", type=float, default=1.5, help="The heavy tenant's rate over the capacity."
    )
    parser.add_argument(
        "--prompt-len", type=int, nargs=2, default=[128, 256], metavar=("FROM", "TO")
    )
    parser.add_argument("--output-len", type=int, nargs=2, default=[16, 32], metavar=("FROM", "TO"))
    parser.add_argument("--max-running", type=int, default=32)
    parser.add_argument("--max-batch-tokens", type=int, default=128)
    parser.add_argument(
        "--tenant-running", type=int, default=0, help="Policy of both, 0: no limit."
    )
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=RESULTS / "tenants.json")
    parser.add_argument("--png", type=Path, default=ROOT / "docs/results/tenants.png")
    return parser.parse_args()


if __name__ == "__main__":
    main()
