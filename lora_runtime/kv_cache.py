"""Paged KV memory: which block belongs to whom, and the tensors behind the blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

BlockKey = tuple[str, bytes]
"""(Sequence.kv_version, chained digest of the salt and of all tokens up to the block's end)."""


def prefix_salt(caller: str, cache_salt: str) -> bytes:
    """Salt of a request's block keys: equal for those that may find each other's prefixes.

    These are the requests of one caller, or of all who give the same `cache_salt`. Names come into
    keys through a digest alone: none can be mistaken for a version, or a salt for a caller.
    """
    text, kind = (cache_salt, b"cache_salt") if cache_salt else (caller, b"caller")
    if not text:
        return b""
    data = text.encode(errors="surrogatepass")
    return hashlib.blake2b(data, digest_size=16, person=kind).digest()


def block_keys(
    version: str,
    token_ids: Sequence[int],
    block_size: int,
    known: Sequence[BlockKey] = (),
    base_prefix: int = 0,
    salt: bytes = b"",
) -> list[BlockKey]:
    """Keys of every full block of `token_ids`, continuing after the `known` ones.

    The version is part of the key: a KV prefix depends on the adapter that computed it. The first
    `base_prefix` tokens were computed without any (version ""). The chain begins with the `salt`, so
    that keys of different salts never meet.
    """
    keys = list(known)
    for start in range(len(keys) * block_size, len(token_ids) - block_size + 1, block_size):
        digest = hashlib.blake2b(keys[-1][1] if keys else salt, digest_size=16)
        digest.update(
            b"".join(t.to_bytes(4, "little") for t in token_ids[start : start + block_size])
        )
        keys.append(("" if start + block_size <= base_prefix else version, digest.digest()))
    return keys


class KVCache:
    """Key and value tensors of all layers, each (num_blocks * block_size, kv_heads, head_dim).

    Slot = block * block_size + offset. `shapes` lists (kv_heads, key dim, value dim) per layer.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        slots = num_blocks * block_size
        self.keys = [torch.zeros(slots, h, d, dtype=dtype, device=device) for h, d, _ in shapes]
        self.values = [torch.zeros(slots, h, d, dtype=dtype, device=device) for h, _, d in shapes]

    @staticmethod
    def bytes_per_token(shapes: Sequence[tuple[int, int, int]], dtype: torch.dtype) -> int:
        return sum(h * (dk + dv) for h, dk, dv in shapes) * dtype.itemsize
