"""Cached prefixes: whose they are, and who finds them."""

from __future__ import annotations

import pytest

from lora_runtime import Engine, Request, SamplingParams
from lora_runtime.kv_cache import block_keys, prefix_salt
from lora_runtime.scheduling.block_allocator import BlockAllocator

SHORT = SamplingParams(max_new_tokens=1, ignore_eos=True)
TOKENS = tuple(range(1, 60))


def cached(engine: Engine, adapter_id: str, caller: str = "", cache_salt: str = "") -> int:
    """Cached tokens of the prompt that all ask."""
    request = Request(
        token_ids=TOKENS,
        adapter_id=adapter_id,
        caller=caller,
        cache_salt=cache_salt,
        sampling=SHORT,
    )
    return engine.generate(request).choices[0].usage.cached_tokens


@pytest.mark.parametrize("name", ["", "a0"])
def test_a_caller_finds_its_own_prefixes_alone(engine: Engine, name: str) -> None:
    assert cached(engine, name, "alice") == 0
    assert cached(engine, name, "alice") > 0
    assert cached(engine, name, "bob") == 0
    assert cached(engine, name) == 0  # where callers are not told apart
    assert cached(engine, name) > 0


@pytest.mark.parametrize("name", ["", "a0"])
def test_a_salt_shares_prefixes_among_callers(engine: Engine, name: str) -> None:
    assert cached(engine, name, "alice", "bob") == 0
    assert cached(engine, name, "bob") == 0  # a salt is not a caller's name
    assert cached(engine, name, "bob", "bob") > 0
    assert cached(engine, name, "bob", "other") == 0
    assert cached(engine, name, "", "other") > 0


def test_salts_never_meet() -> None:
    salts = [prefix_salt(c, s) for c, s in (("", ""), ("a", ""), ("b", ""), ("", "a"), ("", "b"))]
    assert len(set(salts)) == len(salts)
    assert prefix_salt("a", "s") == prefix_salt("b", "s")
    prefix_salt("\ud800", "")  # such as what is no UTF-8
    keys = [block_keys("v", range(8), 2, salt=salt, base_prefix=4) for salt in salts]
    assert len({key for one in keys for key in one}) == sum(map(len, keys))
    assert block_keys("v", range(8), 2, keys[1][:2], 4, salts[1]) == keys[1]


def test_a_caller_that_is_named_like_a_version_keeps_its_prefixes() -> None:
    allocator = BlockAllocator(4, 2)
    (key,) = block_keys("v1", [1, 2], 2, salt=prefix_salt("v2", ""))
    block = allocator.allocate()
    assert block is not None
    allocator.publish(block, key)
    allocator.forget("v2")
    assert allocator.match([key]) == [block]
    allocator.forget("v1")
    assert allocator.match([key]) == []
