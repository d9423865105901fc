"""Envoy's Maglev: a table of hosts by hash, and its bound on a host's load."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from math import ceil

TABLE_SIZE = 65537
"""Envoy's default, a prime."""


def hashed(text: str, seed: int = 0) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8, salt=seed.to_bytes(8, "little"))
    return int.from_bytes(digest.digest(), "little")


def table(hosts: Sequence[str], size: int = TABLE_SIZE) -> list[int]:
    """Fill the table: the hosts take turns, each takes the next free place of its own permutation."""
    offsets = [hashed(host) % size for host in hosts]
    skips = [hashed(host, 1) % (size - 1) + 1 for host in hosts]
    found = [-1] * size
    taken = 0
    while taken < size:
        for host, skip in enumerate(skips):
            place = offsets[host]
            while found[place] >= 0:
                place = (place + skip) % size
            found[place] = host
            offsets[host] = (place + skip) % size
            taken += 1
            if taken == size:
                break
    return found


def bounded(first: int, active: Sequence[int], factor: int, key: int) -> int:
    """Give the host that takes a call, where each may have `factor` percent of the mean: the first,
    else the first of a random order by the key that may, else the least loaded."""
    slots = max(1, ceil(((sum(active) + 1) * factor + 99) // 100 / len(active)))
    if active[first] <= slots:
        return first
    order = [host for host in range(len(active)) if host != first]
    random.Random(key).shuffle(order)
    for host in order:
        if active[host] <= slots:
            return host
    return min([first, *order], key=lambda host: active[host])
