"""Compile every kernel for A100, L4 and H100, check what it takes, and write the table of
docs/results/gpu.md.

`python -m benchmarks.gpu.compiling [--check] [--quick]`, without TRITON_INTERPRET. `--pack FILE`
makes a cache of what a lease launches instead, to be carried to a machine with the same Triton.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.tables import fill, table

ROOT = Path(__file__).parents[3]
PAGE, RESULTS = ROOT / "docs/results/gpu.md", ROOT / "benchmarks/results/gpu"
CAPABILITIES = (80, 89, 90)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.compiling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument(
        "--quick", action="store_true", help="a look at each kind of kernel; writes nothing"
    )
    parser.add_argument(
        "--pack", type=Path, metavar="FILE", help="only compile the lease's launches, into FILE"
    )
    parser.add_argument(
        "--capability", type=int, default=90, help="of --pack; default: 90, an H100 or H200"
    )
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 is set: nothing would be compiled")
    if options.pack:
        return _pack(options.pack, options.capability)
    rows, wrong = _compile(options.quick)
    for problem in wrong:
        print("WRONG", problem)
    print(f"{len(rows)} kernels, {len(wrong)} of which are not what they should be")
    if not (options.check or options.quick):
        _write(rows)
    return 1 if wrong else 0


def _compile(quick: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """(kernels, what does not hold)."""
    from .inspect import specialised
    from .launches import QUICK, AttentionLaunch, of_the_table
    from .pool import compile_all

    launches = QUICK if quick else dict.fromkeys(CAPABILITIES, of_the_table())
    jobs = [(launch, capability) for capability in launches for launch in launches[capability]]
    kernels: list[dict[str, Any]] = []
    wrong: list[str] = []
    for row in compile_all(jobs):
        kernels += row["kernels"]
        wrong += row["problems"]
        for k in row["kernels"]:
            print(
                f"{k['name']:80} {k['registers']:4} registers {k['spilled']:4} spilled {k['shared']:7} shared "
                f"{k['wgmma']:4} wgmma {k['mma']:4} mma {k['wide_loads']:4} wide loads",
                flush=True,
            )
    for launch, capability in jobs:
        if isinstance(launch, AttentionLaunch):
            wrong += specialised(launch, capability)
    order = [launch.name for launch, _ in jobs]
    return sorted(kernels, key=lambda k: (order.index(k["launch"]), k["capability"])), wrong


def _pack(target: Path, capability: int) -> int:
    from .cache import pack
    from .launches import of_the_stages
    from .pool import compile_all

    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        rows = list(compile_all([(launch, capability) for launch in of_the_stages()]))
        target.parent.mkdir(parents=True, exist_ok=True)
        size = pack(Path(cache), target)
    wrong = [problem for row in rows for problem in row["problems"]]
    print(
        "\n".join(
            [
                *(f"WRONG {problem}" for problem in wrong),
                f"{len(rows)} launches, {size:,} bytes: {target}",
            ]
        )
    )
    return 1 if wrong else 0


def _write(kernels: list[dict[str, Any]]) -> None:
    import torch
    import triton

    RESULTS.mkdir(parents=True, exist_ok=True)
    about = {"triton": triton.__version__, "torch": torch.__version__, "kernels": kernels}
    (RESULTS / f"compiled-triton-{triton.__version__}.json").write_text(
        json.dumps(about, indent=1) + "\n"
    )
    fill(PAGE, {"gpu-compiled": compiled_table(kernels)})


_SHOWN = ("shrink_kernel", "expand_kernel", "_chunk_kernel", "_decode_kernel")
_BASES = ("4096 to", "14336 to", "32/8", "8/4 of 256 bf16", "32/1")
"""Launches of the table are those with one of these in their names; the JSON has the others too."""


def compiled_table(kernels: Sequence[dict[str, Any]]) -> str:
    """Registers, spilled bytes, KiB of shared memory and tensor-core instructions, by kernel and
    GPU."""
    cells: dict[tuple[str, str], dict[int, str]] = {}
    for k in (
        k for k in kernels if k["kernel"] in _SHOWN and any(base in k["launch"] for base in _BASES)
    ):
        products = (
            f", {k['wgmma']} wgmma" if k["wgmma"] else f", {k['mma']} mma" if k["mma"] else ""
        )
        cells.setdefault((k["launch"], k["kernel"].strip("_").removesuffix("_kernel")), {})[
            k["capability"]
        ] = f"{k['registers']}, {k['spilled']}, {k['shared'] / 1024:.0f}{products}"
    head = ("launch", "kernel", *(f"sm_{c}" for c in CAPABILITIES))
    return table(
        head,
        [(*names, *(found.get(c, "") for c in CAPABILITIES)) for names, found in cells.items()],
    )


if __name__ == "__main__":
    sys.exit(main())
