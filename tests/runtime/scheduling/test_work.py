"""A prompt's chunks beside others' decode rows: as much work late in it as at its beginning."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_runtime.engine.engine import Engine
from lora_runtime.scheduling.block_allocator import BlockAllocator
from lora_runtime.scheduling.scheduler import Scheduler
from lora_runtime.scheduling.work import Work

from ...support.scheduling import NoSlots
from .test_crowd import sequence, step

SPAN = 100.0


@given(st.integers(0, 10**6), st.integers(1, 10**5), st.floats(0.1, 10**6) | st.just(math.inf))
def test_as_many_tokens_as_the_work_allows(start: int, most: int, span: float) -> None:
    work = Work(span)
    count = work.tokens(start, most)
    assert 1 <= count <= most
    assert count == 1 or work.of(start, count) <= most
    assert work.of(start, count + 2) >= most


@pytest.mark.parametrize("beside", [False, True])
def test_chunks_beside_decode_rows_have_less_and_less_tokens(beside: bool) -> None:
    scheduler = Scheduler(
        BlockAllocator(200, 16, False),
        NoSlots(),
        max_running=4,
        max_batch_tokens=65,
        attention_span=SPAN,
    )
    if beside:
        scheduler.add(sequence("base", 1))
        step(scheduler)
    scheduler.add(sequence("base", 500))
    chunks: list[int] = []
    while sum(chunks) < 500:
        chunks.append(max(count for _, count in step(scheduler)))
    if not beside:
        assert chunks == [65] * 7 + [45]
        return
    assert chunks == sorted(chunks, reverse=True)
    assert chunks[0] > 45  # 64 tokens' work, half of a span on average
    assert 10 <= chunks[-2] <= 64 / 5  # behind four spans and more


def test_a_base_tells_its_span(engine: Engine) -> None:
    base = engine.base
    each = sum(c.heads * (c.dim + c.dim_v) for c in base.frozen.attention_calls)
    assert base.attention_span == base.num_parameters / each
