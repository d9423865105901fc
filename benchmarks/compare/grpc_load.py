"""32 GenerateStream calls at once on a served engine, and the same requests on the engine itself,
in turn.

    python -m benchmarks.compare.grpc_load --repeats 5

Both run as in `benchmarks.compare`; the difference is what gRPC, the streams and the client cost.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.common.paths import ARTIFACTS

from .figures import figures
from .measure import run_group
from .show import show
from .suites import FIGURES


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare.grpc_load",
        description=(__doc__ or "").partition("\n\n")[0],
    )
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    folder = ARTIFACTS / "runs" / "grpc"
    folder.mkdir(parents=True, exist_ok=True)
    group = next(g for g in FIGURES if g.name == "grpc")
    rows, problems = run_group(group, args.repeats, folder)
    show(rows, figures(rows), problems)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
