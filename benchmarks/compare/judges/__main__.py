"""The same loads sent by `loramux bench`, ghz and k6, in turn, and what each says of them.

    python -m benchmarks.compare.judges --rounds 5

A load goes to a server that waits by the clock (`delay-`), or to one of SmolLM2 (`model-`). Every
other round goes backwards. It exits with 1 where the bench's calls a second or whole-call latency
are more than 3 % from ghz's, or its times of tokens further from k6's than k6's own rounds are
apart. ghz and k6 must be on the PATH.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.common.paths import RESULTS
from benchmarks.common.report import machine, save

from .differences import apart, show, summary
from .loads import LOADS, Load, Said
from .servers import serving
from .tools import TOOLS, missing

RESULT = RESULTS / "judges.json"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare.judges",
        description=(__doc__ or "").partition("\n\n")[0],
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loads", default="", metavar="REGEX", help="those whose names match")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    if lacking := missing():
        raise SystemExit(f"not on the PATH: {', '.join(lacking)}")
    chosen = [load for load in LOADS if re.search(args.loads, load.name)]
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _, alike in groupby(chosen, key=lambda load: (load.server, load.first_ms, load.gap_ms)):
            result |= _on_one_server(list(alike), args.rounds, Path(folder))
    save({"machine": machine(), "rounds": args.rounds, "loads": result}, args.out)
    far = apart(result)
    print(*(far or ["loramux bench agrees with ghz and k6"]), sep="\n")
    return 1 if far else 0


def _on_one_server(loads: list[Load], rounds: int, folder: Path) -> dict[str, Any]:
    result = {}
    with serving(loads[0]) as port:
        for load in loads:
            said = _rounds(load, port, rounds, folder)
            result[load.name] = {"load": asdict(load)} | summary(said)
            show(load.name, result[load.name])
    return result


def _rounds(load: Load, port: int, rounds: int, folder: Path) -> dict[str, list[Said]]:
    """What each tool says, round by round, after one that does not count."""
    said: dict[str, list[Said]] = {name: [] for name in TOOLS}
    for turn in range(rounds + 1):
        for name in list(TOOLS)[:: -1 if turn % 2 else 1]:
            one = TOOLS[name](load, port, folder)
            if one.statuses != {"OK": load.calls}:
                raise SystemExit(f"{load.name} by {name}: not {load.calls} answers: {one.statuses}")
            if turn:
                said[name].append(one)
    return said


if __name__ == "__main__":
    sys.exit(main())
