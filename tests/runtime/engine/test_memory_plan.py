"""What a device's memory is given to: the arithmetic, and the steps that are measured for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lora_runtime import BaseModel, Engine, EngineConfig, MemoryPlan
from lora_runtime.backends.torch.runner import TorchRunner
from lora_runtime.engine.memory import kv_block_bytes, plan_memory, share_out
from lora_runtime.kernels.sampling import SampleRow
from lora_runtime.kernels.sampling_batched import sample_rows_batched
from lora_runtime.scheduling.batch import StepBatch, StepOutput

GIB = 1 << 30


class Probe:
    """A device with so much memory, of which steps take what the test says."""

    def __init__(self, total: int, used: int, peaks: list[int]) -> None:
        self.total, self.used, self.peaks = total, used, peaks

    def sizes(self) -> tuple[int, int]:
        assert not self.peaks, "asked before the steps have run"
        return self.total - self.used, self.total

    def peak(self, run: Callable[[], object]) -> int:
        run()
        return self.peaks.pop(0)


class Recorder:
    """A runner that notes the batches it gets."""

    def __init__(self, blocks: int) -> None:
        self.blocks: int = blocks
        self.batches: list[StepBatch] = []

    def forward(self, batch: StepBatch) -> StepOutput:
        self.batches.append(batch)
        rows = len(batch.sampled_rows)
        return StepOutput(torch.full((rows, 100), torch.nan), [-1] * rows)


def base(vocab: int = 100, context: int = 4096) -> Any:
    return SimpleNamespace(
        device=torch.device("cpu"),
        dtype=torch.bfloat16,
        kv_shapes=[(2, 8, 8)] * 4,
        vocab_size=vocab,
        max_context=context,
        sample_rows=sample_rows_batched,
    )


def share(config: EngineConfig, **sizes: int) -> MemoryPlan:
    return share_out(
        config, **({"total": 80 * GIB, "used": 16 * GIB, "steps": 3 * GIB, "graphs": GIB} | sizes)
    )


def test_adapters_get_a_fifth_of_what_is_left_and_the_kv_cache_the_rest() -> None:
    left = 72 * GIB - 20 * GIB
    assert share(EngineConfig()) == MemoryPlan(
        80 * GIB, 16 * GIB, 3 * GIB, GIB, adapters=left // 5, kv_cache=left - left // 5
    )
    half = share(EngineConfig(device_memory_fraction=0.5))
    assert half.adapters + half.kv_cache == 20 * GIB
    alone = share(EngineConfig(max_adapters=0))
    assert (alone.adapters, alone.kv_cache) == (0, left)


def test_what_the_settings_ask_for_is_given() -> None:
    plan = share(EngineConfig(adapter_device_bytes=4 * GIB))
    assert (plan.adapters, plan.kv_cache) == (4 * GIB, 48 * GIB)
    plan = share(EngineConfig(kv_cache_bytes=8 * GIB))
    assert (plan.adapters, plan.kv_cache) == (52 * GIB // 5, 8 * GIB)
    plan = share(EngineConfig(kv_cache_bytes=50 * GIB))  # then adapters get less than their share
    assert (plan.adapters, plan.kv_cache) == (2 * GIB, 50 * GIB)
    plan = share(EngineConfig(kv_cache_bytes=40 * GIB, adapter_device_bytes=12 * GIB))
    assert (plan.adapters, plan.kv_cache) == (12 * GIB, 40 * GIB)


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({"kv_cache_bytes": 40 * GIB, "adapter_device_bytes": 12 * GIB + 1}, {}),
        ({"kv_cache_bytes": 53 * GIB}, {}),
        ({"kv_cache_bytes": 52 * GIB}, {}),
        ({"adapter_device_bytes": 53 * GIB}, {}),
        ({}, {"used": 69 * GIB}),
        ({}, {"steps": 60 * GIB}),
        ({"max_adapters": 0}, {"used": 68 * GIB}),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers(
    settings: dict[str, Any], sizes: dict[str, int]
) -> None:
    with pytest.raises(
        ValueError, match=r"total 81920.0 MiB.*device_memory_fraction 0.9 leaves -?\d+ bytes"
    ):
        share(EngineConfig(**settings), **sizes)


def test_a_plan_is_measured_by_steps() -> None:
    config = EngineConfig(max_running=4, max_batch_tokens=40, kv_block_size=16)
    runners: list[Recorder] = []

    def make_runner(blocks: int) -> Any:
        runners.append(Recorder(blocks))
        return runners[-1]

    block = kv_block_bytes(base(), config)
    assert block == 16 * 4 * 2 * (8 + 8) * 2
    blocks = 3 + 4
    for graphs, kept in ((False, 0), (True, 1000)):
        probe = Probe(GIB, GIB // 4, [50_000 + blocks * block, 1000])
        plan = plan_memory(base(), config, make_runner, probe, graphs=graphs)
        assert (plan.total, plan.used, plan.steps, plan.graphs) == (GIB, GIB // 4, 50_000, kept)
        assert plan.adapters + plan.kv_cache == int(0.9 * GIB) - GIB // 4 - 50_000 - kept
    runner = runners[0]
    assert (len(runners), runner.blocks) == (2, blocks)
    largest, decode, again = runner.batches
    assert again is decode
    assert (len(largest.tokens), len(decode.tokens)) == (40, 4)
    for batch in (largest, decode):
        assert len(batch.sampled_rows) == len(batch.context_lengths) == 4
        assert batch.context_lengths.max() == 4096
        assert batch.positions.max() == 4095
        assert batch.block_tables.shape[1] * 16 >= 4096
        assert batch.block_tables.max() < blocks
        assert batch.tokens.max() < 100
        assert len(set(batch.slots.tolist())) == len(
            batch.slots
        )  # rows do not write over each other


def test_the_largest_step_is_measured_with_its_sampling() -> None:
    drawn: list[Sequence[SampleRow]] = []

    def sample_rows(rows: Sequence[SampleRow]) -> list[int]:
        assert runner.batches, "before the step"
        drawn.append(rows)
        return sample_rows_batched(rows)

    measured, runner = base(), Recorder(0)
    measured.sample_rows = sample_rows
    plan_memory(
        measured,
        EngineConfig(max_running=4, max_batch_tokens=40),
        lambda blocks: runner,
        Probe(GIB, 0, [GIB // 8, 10]),
    )
    (rows,) = drawn
    # The logits of the step were NaN: all rows take part even so.
    assert [(row.top_k, row.top_p, len(row.logits)) for row in rows] == [(0, 0.9, 100)] * 4


@pytest.mark.parametrize(("context", "rows"), [(10, 40), (1, 8), (64, 8)])
def test_a_short_context_bounds_the_largest_step(context: int, rows: int) -> None:
    config = EngineConfig(
        max_running=8, max_batch_tokens=rows, max_context=context, kv_block_size=16
    )
    recorder: list[Recorder] = []
    plan_memory(
        base(),
        config,
        lambda blocks: recorder.append(Recorder(blocks)) or recorder[0],  # type: ignore
        Probe(GIB, 0, [GIB // 8, 10]),
    )
    largest = recorder[0].batches[0]
    assert len(largest.tokens) == min(rows, context + 7)
    assert largest.positions.min() >= 0
    assert largest.positions.max() == context - 1
    counts = np.diff(largest.query_start)
    assert (counts <= largest.context_lengths).all()


def test_a_device_without_memory_for_a_step_is_refused() -> None:
    def no_room(blocks: int) -> Any:
        raise torch.OutOfMemoryError("tried to allocate 5 GiB")

    with pytest.raises(
        ValueError, match=r"512 rows \(max_batch_tokens\), 64 sequences .* 4096: tried to allocate"
    ):
        plan_memory(base(), EngineConfig(), no_room, Probe(GIB, 0, [0]))
    with pytest.raises(ValueError, match="1000 bytes does not hold one block of 4096 bytes"):
        plan_memory(base(), EngineConfig(kv_cache_bytes=1000), no_room)


def test_the_measured_steps_run_on_a_real_base(tiny_base: Path) -> None:
    loaded = BaseModel.load(tiny_base, dtype="float32", kernels="torch")
    config = EngineConfig(max_running=5, max_batch_tokens=32, kv_block_size=4)
    outputs = []

    class Watched(TorchRunner):
        def forward(self, batch: StepBatch) -> Any:
            outputs.append(super().forward(batch))
            return outputs[-1]

    plan = plan_memory(
        loaded,
        config,
        lambda blocks: Watched(loaded.frozen, blocks, 4),
        Probe(GIB, 1000, [10 << 20, 1 << 20]),
    )
    assert plan.steps == (10 << 20) - (8 + 5) * kv_block_bytes(loaded, config)
    assert [len(o.greedy) for o in outputs] == [5, 5, 5]
    assert all(o.logits.isfinite().any() for o in outputs)


def test_on_a_cpu_the_settings_are_the_plan(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(device="cpu", kv_cache_bytes=1 << 20, adapter_device_bytes=1 << 16)
    info = engine.info()
    assert info.memory == MemoryPlan(adapters=1 << 16, kv_cache=1 << 20)
    assert info.kv_blocks == (1 << 20) // kv_block_bytes(engine.base, engine.config)
    with pytest.raises(ValueError, match="one block"):
        make_engine(device="cpu", kv_cache_bytes=100)
    plan = plan_memory(base(), EngineConfig(max_adapters=0, adapter_device_bytes=5), Recorder)
    assert plan == MemoryPlan(kv_cache=GIB)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, float("nan")])
def test_the_fraction_is_one(fraction: float) -> None:
    with pytest.raises(ValueError, match="device_memory_fraction"):
        EngineConfig(device_memory_fraction=fraction)
