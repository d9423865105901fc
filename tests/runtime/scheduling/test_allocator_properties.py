"""Property test of the block allocator against a plain model of who holds what."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lora_runtime.kv_cache import block_keys
from lora_runtime.scheduling.block_allocator import BlockAllocator

BLOCKS = 6


KEYS = ["", "v1", "v1*0.5+v2"]


class AllocatorMachine(RuleBasedStateMachine):
    """`held`: references by block; `content`: the key whose KV a block holds since it was
    published."""

    def __init__(self) -> None:
        super().__init__()
        self.allocator = BlockAllocator(BLOCKS, 4)
        self.held: dict[int, int] = {}
        self.content: dict[int, tuple[str, bytes]] = {}

    @rule()
    def allocate(self) -> None:
        block = self.allocator.allocate()
        if block is None:
            assert len(self.held) == BLOCKS
        else:
            assert block not in self.held
            self.held[block] = 1
            self.content.pop(block, None)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted(self.held)))
        self.allocator.release(block)
        self.held[block] -= 1
        if not self.held[block]:
            del self.held[block]

    @precondition(lambda self: self.held)
    @rule(data=st.data(), version=st.sampled_from(KEYS), token=st.integers(0, 3))
    def publish(self, data: st.DataObject, version: str, token: int) -> None:
        block = data.draw(st.sampled_from(sorted(self.held)))
        key = block_keys(version, [token] * 4, 4)[0]
        self.allocator.publish(block, key)
        if block not in self.content and key not in self.content.values():
            self.content[block] = key

    @rule(version=st.sampled_from(KEYS), token=st.integers(0, 3))
    def match(self, version: str, token: int) -> None:
        key = block_keys(version, [token] * 4, 4)[0]
        found = self.allocator.match([key])
        assert found == [b for b, k in self.content.items() if k == key]
        for block in found:
            self.held[block] = self.held.get(block, 0) + 1

    @rule(version=st.sampled_from(["v1", "v2"]))
    def forget(self, version: str) -> None:
        self.allocator.forget(version)
        self.content = {b: k for b, k in self.content.items() if version not in k[0]}

    @invariant()
    def counts_agree(self) -> None:
        assert self.allocator.num_used == len(self.held)
        assert self.allocator.num_available == BLOCKS - len(self.held)
        assert self.allocator.num_cached == len(self.content.keys() - self.held.keys())


AllocatorMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestAllocator = AllocatorMachine.TestCase


def test_keys_depend_on_version_and_on_everything_before() -> None:
    one, two = block_keys("v", [1, 2, 3, 4, 5], 2)
    assert block_keys("v", [1, 2, 3, 9], 2) != [one, two]
    assert block_keys("v", [1, 2, 3, 9], 2)[0] == one
    assert block_keys("w", [1, 2], 2)[0] != one
    assert block_keys("v", [9, 9, 3, 4], 2)[1] != two


def test_blocks_before_an_activation_are_the_bases() -> None:
    base, plain = block_keys("", range(8), 2), block_keys("v", range(8), 2)
    activated = block_keys("v@5", range(8), 2, base_prefix=5)
    assert activated[:2] == base[:2]
    assert [key[0] for key in activated[2:]] == ["v@5", "v@5"]
    assert not set(activated) & set(plain)
