"""`make gpu-check`: tests, float64 references and benchmarks of the GPU path, as one short table and JSON.

On a machine with a GPU the whole test suite runs on it, and every figure stands beside the limit that follows from the
bandwidth and the rate measured in the same run. Without one, Triton's interpreter runs the same at tiny sizes: that
shows that the kernels and this command work, and its times mean nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PARTS = ("tests", "errors", "ceilings", "kernels", "steps", "loads")
SHAPES = {"llama-3-8b": "LLAMA_8B", "smollm2-135m": "SMOLLM2", "tiny": "TINY"}
INTERPRETER_TESTS = ["tests/runtime/test_step_cost.py", "tests/runtime/test_kernel_choice.py"]
"""Without a GPU the kernels' own tests are left to `make test`, which has them."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: cuda where there is one")
    parser.add_argument("--shape", choices=SHAPES, help="base of steps and loads; default: llama-3-8b, on a CPU tiny")
    parser.add_argument("--repeats", type=int, default=0, help="default: 15, on a CPU 1")
    parser.add_argument("--json", type=Path,
                        help="default: gpu-check.json in benchmarks/results/, without a GPU in .bench/")
    options = parser.parse_args()
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(PARTS):
        parser.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(PARTS)}")
    import torch

    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # read when kernels are defined, which happens below
    return _Check(device, options).run([part for part in PARTS if part in wanted])


class _Check:
    def __init__(self, device: Any, options: argparse.Namespace) -> None:
        import torch

        from gpu import cost, kernels, machine, steps

        self.device, self.real = device, device.type == "cuda"
        self.repeats = options.repeats or (15 if self.real else 1)
        shape = options.shape or ("llama-3-8b" if self.real else "tiny")
        self.shape: cost.Shape = getattr(cost, SHAPES[shape])
        # The interpreter computes in float32 what a GPU computes in bfloat16.
        self.dtype = torch.bfloat16 if self.real else torch.float32
        self.sizes = kernels.FULL if self.real else kernels.TINY
        self.step_cases, self.overlapped = (
            (steps.full_cases(), steps.OVERLAP_CASES) if self.real else (steps.TINY_CASES, steps.TINY_CASES[1:2]))
        self.top = machine.Ceilings(1, 1)
        self.report: dict[str, Any] = {"machine": machine.describe(device), "shape": asdict(self.shape)}
        self.path: Path = options.json or ROOT / ("benchmarks/results" if self.real else ".bench") / "gpu-check.json"
        self.failures: list[str] = []

    def run(self, parts: list[str]) -> int:
        """Every part, whatever the ones before it found; the exit status."""
        from gpu.report import show

        if not {"kernels", "steps"}.isdisjoint(parts) and "ceilings" not in parts:
            parts = ["ceilings", *parts]
        for part in parts:
            started = time.perf_counter()
            action: Callable[[], Any] = getattr(self, f"_{part}")
            try:
                self.report[part] = action()
            except Exception as error:  # what the other parts show is worth having
                self.failures.append(f"{part}: {type(error).__name__}: {error}")
                import traceback

                traceback.print_exc()
            self._free()
            print(f"== {part}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        self.report["failures"] = self.failures
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.report, indent=1) + "\n")
        print(show(self.report))
        print(f"wrote {self.path}", file=sys.stderr)
        return 1 if self.failures else 0

    def _free(self) -> None:
        """The next part may need all of the device's memory; a base's modules refer to each other."""
        import torch

        gc.collect()
        if self.real:
            torch.cuda.empty_cache()

    def _tests(self) -> dict[str, Any]:
        """In a process of their own: a GPU's memory is free again after them."""
        targets = ["tests"] if self.real else INTERPRETER_TESTS
        environment = {**os.environ}
        if self.real:
            environment.pop("TRITON_INTERPRET", None)
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", *targets], cwd=ROOT, env=environment, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        summary = done.stdout.strip().rpartition("\n")[2]
        if done.returncode:
            print(done.stdout, file=sys.stderr)
            self.failures.append(f"tests: {summary}")
        return {"targets": targets, "summary": summary}

    def _errors(self) -> list[dict[str, Any]]:
        import torch

        from gpu.errors import compare
        from lora_runtime.kernels import select

        dtypes = [torch.float32, torch.bfloat16, torch.float16] if self.real else [torch.float32, torch.bfloat16]
        rows = list(compare(select(self.device, "triton"), self.device, dtypes, wide=self.real))
        self.failures += [f"errors: {r['name']} {r['dtype']}: {r['error']:.2e}" for r in rows if not r["good"]]
        return rows

    def _ceilings(self) -> dict[str, float]:
        from gpu.machine import ceilings

        self.top = ceilings(self.device, self.dtype, small=not self.real)
        return asdict(self.top)

    def _kernels(self) -> list[dict[str, Any]]:
        import torch

        from gpu.kernels import cases, measure
        from lora_runtime.kernels import select

        chosen = select(self.device, "triton")
        with torch.inference_mode():
            return measure(cases(self.shape, self.sizes, chosen, self.dtype, self.device), self.top, self.device,
                           self.repeats)

    def _steps(self) -> list[dict[str, Any]]:
        from gpu.bases import random_base
        from gpu.steps import measure

        base = random_base(self.shape, self.device, self.dtype, slots=max(c.adapters for c in self.step_cases))
        return [row for cases, overlap in ((self.step_cases, False), (self.overlapped, True))
                for row in measure(base, self.shape, cases, self.top, self.repeats, overlap)]

    def _loads(self) -> list[dict[str, Any]]:
        from gpu.bases import random_base
        from gpu.loads import copies, through_the_engine

        base = random_base(self.shape, self.device, self.dtype, slots=4)
        ranks = (8, 16, 64, 128) if self.real else (4,)
        rows = [copies(base, self.shape, rank, self.repeats) for rank in ranks]
        beside = {"rank": 16, "streams": 16, "tokens": 400, "loads": 8, "kv_cache_bytes": 4 << 30} if self.real else {
            "rank": 4, "streams": 1, "tokens": 5, "loads": 1, "kv_cache_bytes": 1 << 20}
        return [*rows, through_the_engine(base, self.shape, **beside)]


if __name__ == "__main__":
    sys.exit(main())
