"""Writes a data file for ghz: a JSON array of calls, each for one adapter, even or by Zipf's law.

    python examples/load/calls.py -a pirate -a json -a "" --zipf 1 --count 1000 > calls.json

The empty name is the base. ghz takes the calls in their order, and begins anew behind the last.
"""

from __future__ import annotations

import argparse
import json
import random
import sys


def drawn(names: list[str], exponent: float, count: int, seed: int) -> list[str]:
    """Draw an adapter for each call: the first is named most, the k-th k^-exponent as often."""
    weights = [rank**-exponent for rank in range(1, len(names) + 1)]
    return random.Random(seed).choices(names, weights, k=count)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-a", "--adapter", action="append", required=True, help="repeatable")
    parser.add_argument("--zipf", type=float, default=0, help="exponent; 0 is even")
    parser.add_argument("--count", type=int, help="calls; without it each adapter once, in turn")
    parser.add_argument("--prompt", default="Tell me about dogs.")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not 0 <= args.zipf <= 100:
        parser.error("--zipf: a number from 0 to 100")
    if args.zipf and args.count is None:
        parser.error("--zipf needs --count")
    if args.count is not None and args.count < 1:
        parser.error("--count: at least 1")
    names = args.adapter
    if args.count is not None:
        names = drawn(names, args.zipf, args.count, args.seed)
    # All answers of one length: else texts decide how much work a call is.
    common = {"prompt": args.prompt, "max_new_tokens": args.max_new_tokens, "ignore_eos": True}
    calls = [({"adapter_id": name} if name else {}) | common for name in names]
    json.dump(calls, sys.stdout)


if __name__ == "__main__":
    main()
