"""Captured steps against the same steps launched one by one: every bit, also after slots have
changed hands."""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.gpu.bases import random_base
from benchmarks.gpu.cost import LLAMA_8B, TINY
from benchmarks.gpu.session.context import Context
from benchmarks.gpu.step_cases import StepCase
from benchmarks.gpu.steps import StepBench, batch_of
from lora_runtime.backends.triton.decode_steps import DirectSteps, StepLauncher
from lora_runtime.backends.triton.placement import SlotAdapter
from lora_runtime.scheduling.batch import StepBatch

ROUNDS, TINY_ROUNDS = 4, 2
"""Each with other adapters in the slots than the one before."""


def run(context: Context) -> None:
    shape = replace(LLAMA_8B, name="two layers of llama-3-8b", layers=2) if context.real else TINY
    case = StepCase(8, 1, 300, 4, 16) if context.real else StepCase(3, 1, 9, 2, 4)
    base = random_base(shape, context.device, context.dtype, slots=2 * case.adapters)
    bench = StepBench(base, shape, [case])
    replayed, direct = bench.runner.decode.launcher, DirectSteps()
    held: list[SlotAdapter] = []
    for number in range(ROUNDS if context.real else TINY_ROUNDS):
        slots = bench.place(case.rank + number, case.adapters)
        for slot in held:  # only now: so that the new ones lie in other slots and in other memory
            base.remove_adapter(slot)
        held = slots
        _compare(context, bench, f"round {number}", batch_of(case, slots), replayed, direct)
        if len(slots) > 1:
            swapped = batch_of(case, [*reversed(slots)])
            _compare(context, bench, f"round {number}, rows of others", swapped, replayed, direct)
    _compare(context, bench, "base", batch_of(case.plain, ()), replayed, direct)


def _compare(
    context: Context,
    bench: StepBench,
    name: str,
    batch: StepBatch,
    replayed: StepLauncher,
    direct: StepLauncher,
) -> None:
    first, again, eager = (
        _logits(bench, batch, launcher) for launcher in (replayed, replayed, direct)
    )
    own = _on_own_tensors(bench, batch)
    difference = float((own - eager).norm() / eager.norm())
    equal = torch.equal(first, again) and torch.equal(first, eager)
    # Another batch's products round differently; a wrong row would make a difference of its own
    # size.
    context.emit(
        name,
        launcher=replayed.name,
        bits_equal=equal,
        finite=bool(eager.isfinite().all()),
        own_tensors_differ_by=difference,
        good=equal and bool(eager.isfinite().all()) and difference < 0.05,
    )


def _logits(bench: StepBench, batch: StepBatch, launcher: StepLauncher) -> torch.Tensor:
    """Of a step in fixed buffers, which were poisoned before."""
    decode = bench.runner.decode
    decode.launcher = launcher
    decode.buffers.logits.fill_(torch.nan)
    if decode.plans is not None:
        decode.plans.plan.hidden.fill_(torch.nan)
    return bench.runner.forward(batch).logits[:, : bench.base.vocab_size].clone()


def _on_own_tensors(bench: StepBench, batch: StepBatch) -> torch.Tensor:
    """Of the same rows as a step with a chunk runs them."""
    runner, takes = bench.runner, bench.runner.decode.takes
    runner.decode.takes = lambda batch, arrays: False  # type: ignore[method-assign]
    try:
        return runner.forward(batch).logits[:, : bench.base.vocab_size].float().clone()
    finally:
        runner.decode.takes = takes  # type: ignore[method-assign]
