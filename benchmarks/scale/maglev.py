"""Envoy's Maglev: a table of hosts by hash, and its bound on a host's load."""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import ceil

from xxhash import xxh64_intdigest

TABLE_SIZE = 65537
"""Envoy's default, a prime."""


def hashed(key: str) -> int:
    """Hash a header's value as Envoy does."""
    return xxh64_intdigest(key.encode())


def table(hosts: Sequence[str], size: int = TABLE_SIZE) -> list[int]:
    """Fill the table with the hosts' numbers: by their keys' order they take turns, and each takes
    the next free place of its own permutation."""
    order = sorted(range(len(hosts)), key=lambda host: hosts[host])
    places = [hashed(key) % size for key in hosts]
    skips = [xxh64_intdigest(key.encode(), 1) % (size - 1) + 1 for key in hosts]
    found = [-1] * size
    for turn in range(size):
        host = order[turn % len(order)]
        while found[places[host]] >= 0:
            places[host] = (places[host] + skips[host]) % size
        found[places[host]] = host
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
