"""A storm of reloads, evictions and aborts: every answer is checked, and at the end nothing may be
left.

    python -m benchmarks.adapter_life.storm --seconds 600 --json benchmarks/results/storm.json

Threads ask (single, streamed, several choices, compositions, the base), cancel, set tiny deadlines,
reload under the same name, start, move and drop canaries, roll back, pin, unload, and load broken
files, all at random. What every (version, prompt) must answer was taken before from an engine that
did nothing else.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import asdict
from pathlib import Path

from .run import show
from .smollm2 import storm_smollm2


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.adapter_life.storm",
        description=(__doc__ or "").partition("\n\n")[0],
    )
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--adapters", type=int, default=200)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 20))
    parser.add_argument("--json", type=Path, default=None, help="Also write the report there.")
    args = parser.parse_args()
    report = storm_smollm2(args.adapters, args.slots, args.seconds, args.seed, args.threads)
    show(report)
    if args.json:
        args.json.write_text(json.dumps(asdict(report), indent=1) + "\n")
    raise SystemExit(0 if report.passed else 1)


if __name__ == "__main__":
    main()
