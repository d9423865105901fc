"""TritonRunner: steps in fixed buffers beside steps on tensors of their own, and adapters that come
and go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lora_runtime import BaseModel
from lora_runtime.adapters.peft.update import ModuleUpdate
from lora_runtime.backends.triton import runner as triton_runner
from lora_runtime.backends.triton.decode_steps import DirectSteps, StepKey, step_sizes
from lora_runtime.backends.triton.placement import SlotAdapter
from lora_runtime.backends.triton.runner import TritonRunner
from lora_runtime.kernels.attention import AttentionPlan, paged_attention_reference
from lora_runtime.kernels.host_to_device import upload_packed
from lora_runtime.scheduling.batch import AdapterSegment, StepBatch

from ....support.backends import fused_of
from ....support.capture_guard import CaptureError, CaptureGuard
from ....support.device import ON_GPU
from ....support.device_path import REFERENCES, device_of, load_base, record_launches
from ....support.models import VOCAB, save_base
from ....support.reference import relative_error
from ....support.slow import slow_but
from ....support.updates import Row, make_adapter, run

WIDTH = 64
Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
SHAPES = {Q: (WIDTH, WIDTH), DOWN: (WIDTH, 96), "lm_head": (VOCAB, WIDTH)}


def lora(
    seed: int, rank: int = 3, modules: Sequence[str] = (Q, DOWN), **more: ModuleUpdate
) -> dict[str, ModuleUpdate]:
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name in modules:
        out, width = SHAPES[name]
        found[name] = ModuleUpdate(
            0.3 * torch.randn(rank, width, generator=generator),
            0.3 * torch.randn(out, rank, generator=generator),
        )
    return found | more


def tokens(seed: int, count: int = 9) -> list[int]:
    return torch.randint(
        VOCAB, (count + seed % 4,), generator=torch.Generator().manual_seed(seed)
    ).tolist()


@dataclass
class Paths:
    """One base in the torch backend and in the Triton backend; adapters are in both."""

    torch: BaseModel
    device: BaseModel
    placed: list[SlotAdapter] = field(default_factory=list)

    def runner(self, **settings: Any) -> TritonRunner:
        found = self.device.make_runner(16, 16, **{"max_running": 8} | settings)
        assert isinstance(found, TritonRunner)
        return found

    def adapter(self, updates: dict[str, ModuleUpdate]) -> tuple[Any, Any]:
        """In the torch backend, in the Triton backend."""
        made = make_adapter(self.torch, updates), make_adapter(self.device, updates)
        self.placed.append(made[1])
        return made

    def remove(self, adapter: tuple[Any, Any]) -> None:
        self.placed.remove(adapter[1])
        self.device.remove_adapter(adapter[1])

    def check(
        self,
        runner: TritonRunner,
        adapters: Sequence[Sequence[tuple[tuple[Any, Any], float]]],
        count: int = 9,
    ) -> None:
        """A sequence for each, under its weighted adapters, in both backends."""
        ours, theirs = (
            [
                Row(tokens(i, count), [(a[path], w) for a, w in row])
                for i, row in enumerate(adapters)
            ]
            for path in (1, 0)
        )
        expected = run(self.torch.make_runner(16, 16), theirs)
        for got, wanted in zip(run(runner, ours), expected, strict=True):
            infinite = wanted.isinf()
            assert torch.equal(got.isinf(), infinite)
            assert relative_error(got[~infinite], wanted[~infinite]) < 1e-5


@pytest.fixture(scope="module", params=["reference", *(["triton"] if ON_GPU else [])])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """With references on a CPU, for the interpreter is slow; where there is a GPU with Triton's
    kernels on it too."""
    directory = save_base(tmp_path_factory.mktemp("base"), layers=2)
    return Paths(
        BaseModel.load(
            directory, dtype="float32", kernels="torch", device=device_of(request.param)
        ),
        load_base(directory, request.param, slots=6),
    )


@pytest.fixture
def paths(both: Paths) -> Iterator[Paths]:
    """With all slots free."""
    yield both
    for adapter in both.placed:
        both.device.remove_adapter(adapter)
    both.placed.clear()


def test_sizes_of_steps() -> None:
    assert step_sizes(1) == [1]
    assert step_sizes(12) == [1, 2, 4, 8, 12]
    assert step_sizes(64) == [1, 2, 4, 8, 16, 32, 64]
    assert step_sizes(300) == [1, 2, 4, 8, 16, 32, 64, 128, 192, 256, 300]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_fixed_buffers_equal_the_torch_path(paths: Paths, count: int) -> None:
    a, b = paths.adapter(lora(1)), paths.adapter(lora(2, 5, (Q, "lm_head")))
    runner = paths.runner()
    launched = record_launches(runner)
    rows = [[], [(a, 1.0)], [(a, 1.0)], [(b, 1.0)], [], [(a, 0.5), (b, -0.7)], [(b, 1.0)]]
    paths.check(runner, rows[-count:])
    size = next(s for s in (1, 2, 4, 8) if s >= count)
    assert launched == [StepKey(size, True, head=True)] * 3  # b changes the lm_head
    paths.check(runner, [[]] * count)
    assert launched[3:] == [StepKey(size, False)] * 3


def test_what_does_not_fit_runs_on_tensors_of_its_own(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_runner, "_BUFFER_RANK", 4)
    a, large = paths.adapter(lora(1)), paths.adapter(lora(2, 40))
    norm = paths.adapter(lora(3) | {"model.norm": ModuleUpdate(weight=torch.full((WIDTH,), 0.7))})
    tokens_of_vocab = paths.adapter(
        lora(4) | {"lm_head": ModuleUpdate(token_ids=(3, 70), token_rows=torch.ones(2, WIDTH))}
    )
    wider = torch.randn(VOCAB + 2, WIDTH, generator=torch.Generator().manual_seed(5))
    added = paths.adapter(
        lora(5)
        | {"lm_head": ModuleUpdate(weight=wider), "model.embed_tokens": ModuleUpdate(weight=wider)}
    )
    fewer = paths.adapter(
        lora(6)
        | {
            name: ModuleUpdate(weight=wider[: VOCAB - 3], rows=VOCAB - 3)
            for name in ("lm_head", "model.embed_tokens")
        }
    )
    runner = paths.runner(max_running=4)
    launched = record_launches(runner)
    paths.check(runner, [[(added, 1.0)], [(a, 1.0)], [], [(added, 0.3), (a, 0.5)]])
    paths.check(runner, [[(fewer, 1.0)], [(added, 0.3), (fewer, 0.5)], [(a, 1.0)], []])
    paths.check(runner, [[(large, 1.0)]] * 4)
    paths.check(runner, [[(norm, 1.0)], [(a, 1.0)], []])
    paths.check(runner, [[(tokens_of_vocab, 0.5), (a, 1.0)], [(a, 1.0)]])
    paths.check(runner, [[(a, 1.0), (large, 0.1), (norm, 0.2), (tokens_of_vocab, 1.0)]] * 2)
    paths.check(runner, [[]] * 5)  # more rows than the buffers have
    assert launched == []
    paths.check(runner, [[(a, 1.0)]])
    assert launched == [StepKey(1, True)] * 3


def test_many_adapters_a_row_take_a_larger_step(paths: Paths) -> None:
    adapters = [paths.adapter(lora(i)) for i in range(5)]
    runner = paths.runner()
    launched = record_launches(runner)
    paths.check(runner, [[(a, 0.3 * i - 0.5) for i, a in enumerate(adapters)]])
    assert launched == [StepKey(8, True)] * 3


def test_a_context_beyond_the_buffers_runs_on_tensors_of_its_own(paths: Paths) -> None:
    runner = paths.runner(max_context=16)
    launched = record_launches(runner)
    paths.check(runner, [[], []], count=20)
    assert launched == []
    paths.check(runner, [[], []])
    assert launched == [StepKey(2, False)] * 3


def test_attention_that_plans_on_the_host_gets_the_steps_arrays(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attention(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: AttentionPlan, **call: Any
    ) -> torch.Tensor:
        assert plan.host is not None
        assert plan.host.context_lengths.tolist() == plan.context_lengths.tolist()
        return paged_attention_reference(q, k, v, plan, **call)

    kernels = replace(paths.device.frozen.context.kernels, attention=attention, captures=False)
    monkeypatch.setattr(paths.device.frozen.context, "kernels", kernels)
    assert "plans on the host" in fused_of(paths.device).why_not_captured()
    runner = paths.runner()
    launched = record_launches(runner)
    paths.check(runner, [[], [(paths.adapter(lora(1)), 1.0)]])
    assert launched == []


def _addresses(runner: TritonRunner) -> list[int]:
    buffers, plans, placer = runner.decode.buffers, runner.decode.plans, runner.base.placer
    assert plans is not None
    assert placer is not None
    tensors = [
        buffers.tokens,
        buffers.positions,
        buffers.slots,
        buffers.context_lengths,
        buffers.block_tables,
        buffers.query_start,
        buffers.logits,
        buffers.greedy,
        *runner.cache.keys,
        *runner.cache.values,
        *(v for v in vars(plans.plan).values() if isinstance(v, torch.Tensor)),
        placer.table.addresses,
        placer.table.ranks,
        placer.table.scalings,
    ]
    return [t.data_ptr() for t in tensors]


def test_adapters_come_and_go_and_no_buffer_moves(paths: Paths) -> None:
    runner = paths.runner()
    addresses = _addresses(runner)
    held = [paths.adapter(lora(i)) for i in range(2)]
    for step in range(2):
        paths.check(runner, [[(a, 1.0)] for a in held])
        assert _addresses(runner) == addresses
        leaving = held.pop(step % len(held))
        freed = leaving[1].buffer
        paths.remove(leaving)
        freed.fill_(0xFF)  # NaN, wherever it is read as a float
        paths.check(runner, [[(a, 1.0)] for a in held])
        held.append(paths.adapter(lora(10 + step, 1 + 3 * step)))
    assert _addresses(runner) == addresses


def test_a_freed_slot_is_nothing_even_to_a_plan_that_names_it(paths: Paths) -> None:
    runner = paths.runner()
    adapter = paths.adapter(lora(1))
    batch = _decode_batch([7, 8], [AdapterSegment(0, 2, adapter[1])])
    arrays = runner._plan(batch.segments, 16)
    plain = runner.forward(replace(batch, segments=())).logits.clone()
    assert not torch.equal(runner.forward(batch).logits, plain)
    freed = adapter[1].buffer
    paths.remove(adapter)
    freed.fill_(0xFF)
    assert runner.base.placer is not None
    runner.base.placer.flush()
    with torch.inference_mode():
        stale = runner.decode.forward(batch, arrays)
    assert torch.equal(stale.logits, plain)


def _decode_batch(ids: Sequence[int], segments: Sequence[AdapterSegment] = ()) -> StepBatch:
    """First tokens of sequences."""
    starts = np.arange(len(ids) + 1, dtype=np.int32)
    rows = starts[:-1]
    return StepBatch(
        tokens=np.array(ids, np.int32),
        positions=rows * 0,
        slots=rows * 16,
        query_start=starts,
        context_lengths=rows * 0 + 1,
        block_tables=rows[:, None].copy(),
        block_size=16,
        sampled_rows=rows,
        segments=segments,
        sampling=(),
        distinct_adapters=len(segments),
    )


def test_a_plan_is_made_once_for_steps_that_go_on(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    plan = triton_runner.plan_tiles

    def counting(segments: Any, tile_size: int, hidden: Any) -> Any:
        made.append(tile_size)
        return plan(segments, tile_size, hidden)

    def walk(*_: object) -> int:
        raise AssertionError("the groups are walked once, when the runner is made")

    runner, adapter = paths.runner(), paths.adapter(lora(1, modules=(Q, "lm_head")))[1]
    monkeypatch.setattr(triton_runner, "plan_tiles", counting)
    monkeypatch.setattr(triton_runner, "hidden_per_row", walk)
    run(runner, [Row(tokens(0), [(adapter, 1.0)]), Row(tokens(1), [(adapter, 0.5)])])
    assert made == [
        64,
        64,
        16,
    ]  # the prompts, their rows that sample, and one for all steps of decode rows
    mixed = replace(
        _decode_batch([7, 8, 9], [AdapterSegment(0, 3, adapter)]),
        sampled_rows=np.array([1], np.int32),
    )
    for _ in range(2):
        runner.forward(mixed)
    assert made[3:] == [16, 16, 16]  # the head's own does not take the place of the step's


def test_rows_of_no_sequence_touch_nothing(paths: Paths) -> None:
    runner = paths.runner()
    for keys in (*runner.cache.keys, *runner.cache.values):
        keys.fill_(7)
    runner.forward(_decode_batch([1, 2, 3]))  # runs as four
    for keys in (*runner.cache.keys, *runner.cache.values):
        blocks = keys.view(17, 16, -1)
        written = (blocks != 7).any(-1)
        assert written.nonzero().tolist() == [[0, 0], [1, 0], [2, 0], [16, 0]]


def test_a_row_with_nan_has_no_token(paths: Paths) -> None:
    runner = paths.runner()
    runner.forward(_decode_batch([1, 2]))
    for keys in runner.cache.values:
        keys[16:32] = torch.nan
    batch = _decode_batch([3, 4])
    batch.positions[:], batch.context_lengths[:], batch.slots[:] = 1, 2, [1, 17]
    output = runner.forward(batch)
    assert output.greedy[0] == output.logits[0].argmax()
    assert output.greedy[1] == -1
    assert (output.logits[0, VOCAB:] == -torch.inf).all()


def test_nothing_is_launched_for_what_no_adapter_changes(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, ...]] = []
    kernels = fused_of(paths.device).kernels
    names = {linear.group.first: linear.names for linear in fused_of(paths.device).linears}

    def update(y: Any, x: Any, group: Any, plan: Any, table: Any) -> None:
        seen.append(names[group.first])
        assert kernels.update_group is not None
        kernels.update_group(y, x, group, plan, table)

    monkeypatch.setattr(
        paths.device.frozen.context, "kernels", replace(kernels, update_group=update)
    )
    runner, adapter = paths.runner(cuda_graphs=False), paths.adapter(lora(1))
    seen.clear()  # on CUDA every kernel is compiled when the runner is made
    run(runner, [Row(tokens(0)), Row(tokens(1))])
    assert seen == []
    run(runner, [Row(tokens(0), [(adapter[1], 1.0)]), Row(tokens(1))])
    prefill, decode = seen[:2], seen[2:]
    assert [Q in prefill[0], prefill[1]] == [True, (DOWN,)]
    # A graph outlives its adapters; but there is one for those that leave the lm_head as it is.
    body = [linear.names for linear in fused_of(paths.device).linears if not linear.call.head]
    assert len(body) == len(fused_of(paths.device).linears) - 1
    assert decode == body * 3


def test_every_kernel_is_launched_before_the_first_step(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On CUDA when the runner is made; here the interpreter compiles nothing."""
    seen: list[tuple[int, int]] = []
    attended: list[tuple[int, int | None]] = []
    kernels = fused_of(paths.device).kernels

    def update(y: Any, x: Any, group: Any, plan: Any, table: Any) -> None:
        assert list(plan.tiles()) == []
        seen.append((plan.tile_size, group.first))

    def attention(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: AttentionPlan, **call: Any
    ) -> torch.Tensor:
        assert plan.block_tables.shape == (2, 16)
        attended.append((len(q), plan.decode_rows))
        return paged_attention_reference(q, k, v, plan, **call)

    monkeypatch.setattr(
        paths.device.frozen.context,
        "kernels",
        replace(kernels, update_group=update, attention=attention),
    )
    runner = paths.runner(cuda_graphs=False)
    compiled = paths.device.frozen.device.type == "cuda"
    assert bool(seen) == bool(attended) == compiled
    seen.clear()
    attended.clear()
    paths.adapter(lora(1))  # another engine's
    runner.compile_kernels()
    groups = [linear.group.first for linear in fused_of(paths.device).linears]
    assert seen == [(tile, first) for tile in (64, 16) for first in groups]
    assert attended == [(65, 1)] * 2 + [(2, 2)] * 2
    for values in (*runner.cache.keys, *runner.cache.values):
        assert not values[: 16 * 16].any()  # no sequence's block was written
        assert values[16 * 16 :].any()
    monkeypatch.setattr(runner, "_takes_adapters", False)
    runner.compile_kernels()
    assert (len(seen), len(attended)) == (2 * len(groups), 8)


def test_a_step_waits_for_what_it_reads(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[object] = []
    kernels = fused_of(paths.device).kernels
    monkeypatch.setattr(SlotAdapter, "wait", lambda self, layer=None: events.append(layer))
    monkeypatch.setattr(
        paths.device.frozen.context,
        "kernels",
        replace(kernels, update_group=lambda y, x, group, plan, table: events.append("update")),
    )
    runner = paths.runner(cuda_graphs=False)
    adapter = paths.adapter(lora(1, modules=(Q, DOWN, "lm_head")))
    events.clear()  # on CUDA every kernel is compiled when the runner is made
    run(runner, [Row(tokens(0), [(adapter[1], 1.0)])])
    assert events[:6] == [0, "update", 1, "update", None, "update"]
    assert events[6:8] == [None, "update"]
    assert events[6:].count(None) == 3  # once a step, before it is launched


def test_arrays_go_to_the_device_in_one_aligned_copy() -> None:
    arrays = [
        np.arange(5, dtype=np.int32),
        np.zeros((0, 3), np.int32),
        np.arange(12, dtype=np.int32).reshape(3, 4),
    ]
    tensors = upload_packed(arrays, torch.device("cpu"))
    for array, tensor in zip(arrays, tensors, strict=True):
        assert np.array_equal(tensor.numpy(), array)
        assert tensor.is_contiguous()
    assert len({t.untyped_storage().data_ptr() for t in tensors}) == 1
    assert all(t.storage_offset() * 4 % 64 == 0 for t in tensors)


@pytest.mark.slow
@pytest.mark.parametrize("overlap", slow_but([False], [False, True]))
def test_a_step_in_fixed_buffers_can_be_captured(tmp_path: Path, overlap: bool) -> None:
    """With Triton's kernels: nothing is read on the host, and no memory that a replay would not
    find."""
    base = load_base(save_base(tmp_path, layers=1), slots=2)
    assert fused_of(base).placer is not None
    runner = base.make_runner(4, 16, max_running=2, max_context=32, lora_overlap=overlap)
    assert isinstance(runner, TritonRunner)
    guard = CaptureGuard()
    runner.decode.launcher = GuardedSteps(guard, base)
    first = make_adapter(base, lora(1, 2, (Q, "lm_head")))
    for seed in (2, 3):
        adapter = make_adapter(base, lora(seed, seed, (Q, "lm_head")))
        batch = _decode_batch([5, 6], [AdapterSegment(1, 2, adapter), AdapterSegment(0, 1, first)])
        logits = runner.forward(batch).logits.clone()
        fused_of(base).placer.remove(adapter)
    assert guard.ops > 50
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base.frozen.context, "kernels", REFERENCES)
        adapter = make_adapter(base, lora(3, 3, (Q, "lm_head")))
        batch = _decode_batch([5, 6], [AdapterSegment(1, 2, adapter), AdapterSegment(0, 1, first)])
        expected = (
            base.make_runner(4, 16, max_running=2, max_context=32, cuda_graphs=False)
            .forward(batch)
            .logits
        )
    assert relative_error(logits[:, :VOCAB], expected[:, :VOCAB]) < 1e-5


class GuardedSteps(DirectSteps):
    def __init__(self, guard: CaptureGuard, base: BaseModel) -> None:
        self._guard, self._base = guard, base

    def launch(self, key: StepKey, step: Callable[[], None]) -> None:
        with self._guard.kernels(self._base.frozen.context, _tensors_of), self._guard:
            step()


def _tensors_of(argument: object) -> list[torch.Tensor]:
    """Of a plan, a group, the slot table."""
    fields = vars(argument) if hasattr(argument, "__dict__") else {}
    return [v for k, v in fields.items() if isinstance(v, torch.Tensor) and not k.startswith("_")]


def test_the_guard_sees_what_a_capture_would_not_survive() -> None:
    fixed = torch.ones(3)
    for wrong in (
        lambda: fixed.sum().item(),
        lambda: fixed[fixed > 0],
        lambda: fixed.nonzero(),
        lambda: fixed + torch.tensor([1.0, 2.0, 3.0]),
    ):
        with pytest.raises(CaptureError), CaptureGuard():
            wrong()
    guard = CaptureGuard()
    with guard:
        (fixed * 2).add_(fixed[1:].sum())
    with guard:
        (fixed * 2).mul_(3)
    other = fixed.clone()
    with pytest.raises(CaptureError, match="did not read"), guard:
        fixed.add(other)
