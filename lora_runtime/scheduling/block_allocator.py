"""Bookkeeping of which KV block belongs to whom."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence

from ..kv_cache import BlockKey


class BlockAllocator:
    """Hands out KV blocks by number; full blocks of finished sequences stay as a prefix cache.

    A block is free, held (reference count > 0), or cached: unused but findable by its key until
    its memory is needed, least recently used first. Not thread-safe: the engine thread owns it.
    """

    def __init__(self, num_blocks: int, block_size: int, prefix_caching: bool = True) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._caching = prefix_caching
        self._free = deque(range(num_blocks))
        self._refs = [0] * num_blocks
        self._block_of: dict[BlockKey, int] = {}
        self._key_of: dict[int, BlockKey] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()

    @property
    def num_available(self) -> int:
        """Blocks that `allocate` could hand out now, cached ones included."""
        return len(self._free) + len(self._cached)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_available

    def allocate(self) -> int | None:
        """A block with reference count 1, or None when all are held."""
        if self._free:
            block = self._free.popleft()
        elif self._cached:
            block, _ = self._cached.popitem(last=False)
            del self._block_of[self._key_of.pop(block)]
        else:
            return None
        self._refs[block] = 1
        return block

    def release(self, block: int) -> None:
        """Drop one reference; raises ValueError for a block that nobody holds."""
        if self._refs[block] <= 0:
            raise ValueError(f"block {block} is not held")
        self._refs[block] -= 1
        if self._refs[block]:
            return
        if block in self._key_of:
            self._cached[block] = None
        else:
            self._free.append(block)

    def publish(self, block: int, key: BlockKey) -> None:
        """Make a full, computed, held block findable. The first block with a key keeps it."""
        if self._caching and key not in self._block_of and block not in self._key_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def match(self, keys: Sequence[BlockKey]) -> list[int]:
        """Blocks of the longest known prefix of `keys`; each gains a reference."""
        blocks = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            self._cached.pop(block, None)
            self._refs[block] += 1
            blocks.append(block)
        return blocks

    def forget(self, version: str) -> None:
        """Drop every cached prefix that an adapter version had a part in; held blocks are freed on
        release."""
        for key in [k for k in self._block_of if version in k[0]]:
            block = self._block_of.pop(key)
            del self._key_of[block]
            if block in self._cached:
                del self._cached[block]
                self._free.append(block)
