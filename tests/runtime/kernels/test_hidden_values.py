"""What a row does not see cannot reach it: NaN, infinities and huge values behind it, before its
window and in slots of nobody, in every implementation of attention."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from lora_runtime.kernels.attention import paged_attention_reference
from lora_runtime.kernels.cpu import build, library, ops
from lora_runtime.kernels.triton.attention import paged_attention

from ...support.attention import PagedCase
from ...support.device import DEVICE

Attention = Callable[..., torch.Tensor]
Poison = tuple[int, float, bool, bool]
"""(position, value, whether in keys, whether in values)"""
SEQUENCES = [(1, 70), (21, 0), (9, 60), (1, 0), (2, 130)]
"""(rows, positions before them): chunks within a tile and across two, and decode rows."""
CASES = [
    # heads, key heads, dims of keys and values, window, softcap
    (6, 2, 8, 8, None, None),
    (3, 3, 24, 10, 9, 3.0),
    (5, 1, 16, 70, 40, None),
]


def _with_target(target: str) -> Attention:
    def attention(*args: object, **how: object) -> torch.Tensor:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ops, "load", lambda: library.load(target))
            return ops.paged_attention(*args, **how)  # type: ignore[arg-type]

    return attention


_TARGETS = list(build.TARGETS)
RUNNABLE = _TARGETS[_TARGETS.index(build.host_target()) :]
KERNELS: dict[str, tuple[Attention, str]] = {
    "torch": (paged_attention_reference, "cpu"),
    "triton": (paged_attention, DEVICE),
    **{f"cpp {t}": (_with_target(t), "cpu") for t in RUNNABLE},
    **({"torch on the device": (paged_attention_reference, DEVICE)} if DEVICE != "cpu" else {}),
}


def _filled(
    case: PagedCase, chosen: Callable[[int], bool], value: float, keys: bool, values: bool
) -> PagedCase:
    """The positions `chosen` of every sequence hold `value`."""
    k, v = case.k_cache.clone(), case.v_cache.clone()
    slots = sorted({s for own in case.row_slots for p, s in enumerate(own) if chosen(p)})
    for cache in (k,) * keys + (v,) * values:
        cache[slots] = value
    return PagedCase(case.plan, case.q, k, v, case.row_slots)


def _run(
    attention: Attention, case: PagedCase, window: int | None, softcap: float | None
) -> torch.Tensor:
    return attention(
        case.q, case.k_cache, case.v_cache, case.plan, scaling=0.3, window=window, softcap=softcap
    ).cpu()


def _poisons(dtype: torch.dtype) -> list[Poison]:
    huge = torch.finfo(dtype).max
    return [
        (13, math.nan, False, True),
        (64, math.inf, False, True),
        (66, huge, True, False),
        (65, math.nan, True, True),
    ]


@pytest.mark.parametrize(
    ("kernel", "dtype", "heads", "kv_heads", "d", "dv", "window", "softcap"),
    [
        # Of the interpreted ones the first is quick enough.
        pytest.param(
            kernel, dtype, *case, marks=[pytest.mark.slow] * (kernel == "triton" and i + j > 0)
        )
        for kernel in KERNELS
        for i, dtype in enumerate((torch.float32, torch.bfloat16))
        for j, case in enumerate(CASES)
    ],
    ids=str,
)
def test_hidden_positions_do_not_reach_a_row(
    kernel: str,
    heads: int,
    kv_heads: int,
    d: int,
    dv: int,
    window: int | None,
    softcap: float | None,
    dtype: torch.dtype,
) -> None:
    """Bit for bit what it is with zeros there."""
    attention, device = KERNELS[kernel]
    g = torch.Generator().manual_seed(d)
    case = PagedCase.random(g, heads, kv_heads, d, dv, dtype, 16, SEQUENCES, device)
    at = torch.tensor([len(slots) - 1 for slots in case.row_slots])

    def check(hidden: Callable[[int], bool], innocent: torch.Tensor, poison: Poison) -> None:
        found, zeros = (
            _run(attention, _filled(case, hidden, v, *poison[2:]), window, softcap)
            for v in (poison[1], 0.0)
        )
        assert zeros.isfinite().all()
        assert torch.equal(found[innocent], zeros[innocent]), poison
        if math.isnan(poison[1]):
            assert found[~innocent].flatten(1).isnan().any(1).all(), poison

    for poison in _poisons(dtype)[:: 3 if kernel == "triton" else 1]:  # interpreted, most often
        first = poison[0]
        check(lambda p: p >= first, at < first, poison)  # noqa: B023
        if window is not None:
            check(lambda p: p < first, at - window + 1 >= first, poison)  # noqa: B023


@pytest.mark.parametrize(
    "kernel",
    [pytest.param(k, marks=[pytest.mark.slow] * (k == "triton")) for k in KERNELS],
)
def test_blocks_of_nobody_do_not_reach_a_row(kernel: str) -> None:
    """Slots behind a context in its last block, and blocks that it has not."""
    attention, device = KERNELS[kernel]
    g = torch.Generator().manual_seed(3)
    case = PagedCase.random(g, 4, 2, 16, 16, torch.bfloat16, 32, SEQUENCES, device)
    owned = torch.tensor(sorted({s for own in case.row_slots for s in own}), device=device)
    results = []
    for value in (0.0, math.nan, math.inf):
        k, v = torch.full_like(case.k_cache, value), torch.full_like(case.v_cache, value)
        k[owned], v[owned] = case.k_cache[owned], case.v_cache[owned]
        results.append(
            [
                _run(attention, PagedCase(case.plan, case.q, k, v, case.row_slots), w, None)
                for w in (None, 7)
            ]
        )
    for found in results[1:]:
        assert all(map(torch.equal, found, results[0]))
