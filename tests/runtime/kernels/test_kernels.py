"""Every implementation of every kernel against dense arithmetic in float64, on random inputs and
layouts."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from lora_runtime.kernels.attention import paged_attention_reference
from lora_runtime.kernels.cpu import build, library, ops, weights
from lora_runtime.kernels.lora import LoraSegment, add_lora_reference

from ...support.attention import PagedCase

LORA = {"torch": add_lora_reference, "cpp": ops.add_lora}
ATTENTION = {"torch": paged_attention_reference, "cpp": ops.paged_attention}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def _integer(g: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high, (), generator=g))


def _assert_close(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    scale = float(expected.abs().max())
    torch.testing.assert_close(
        actual.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * scale
    )


@DTYPES
@pytest.mark.parametrize("kernel", LORA)
@pytest.mark.parametrize("seed", range(20))
def test_lora_equals_the_dense_update(seed: int, kernel: str, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(seed)
    rows, n_in, n_out = _integer(g, 1, 40), _integer(g, 1, 300), _integer(g, 1, 300)
    x, y = torch.randn(rows, n_in, generator=g).to(dtype), torch.randn(rows, n_out, generator=g)
    y = y if kernel == "cpp" else y.to(dtype)
    expected, segments = y.double(), []
    for _ in range(_integer(g, 0, 6)):  # they may overlap: several adapters per row
        start, end = sorted(torch.randint(0, rows + 1, (2,), generator=g).tolist())
        rank = _integer(g, 1, 70)
        a, b = (
            torch.randn(rank, n_in, generator=g).to(dtype),
            torch.randn(n_out, rank, generator=g).to(dtype),
        )
        scaling = float(torch.rand((), generator=g))
        segments.append(LoraSegment(start, end, a, b, scaling))
        expected[start:end] += x[start:end].double() @ (scaling * b.double() @ a.double()).T
    LORA[kernel](y, x, segments)
    _assert_close(y, expected, dtype)


@DTYPES
@pytest.mark.parametrize("kernel", ATTENTION)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "d", "dv"), [(6, 2, 8, 4), (3, 3, 64, 64), (4, 1, 80, 96)]
)
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("window", [None, 5])
def test_attention_equals_row_by_row(
    window: int | None,
    softcap: float | None,
    heads: int,
    kv_heads: int,
    d: int,
    dv: int,
    kernel: str,
    dtype: torch.dtype,
) -> None:
    g = torch.Generator().manual_seed(heads * d)
    sequences = [(new, _integer(g, 0, 40)) for new in (1, 7, 1, 13, 1)]
    case = PagedCase.random(g, heads, kv_heads, d, dv, dtype, (16, 32, 48)[heads % 3], sequences)
    actual = ATTENTION[kernel](
        case.q, case.k_cache, case.v_cache, case.plan, scaling=0.3, window=window, softcap=softcap
    )
    _assert_close(actual, case.expected(0.3, window, softcap), dtype)


@DTYPES
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_sinks_take_a_share_of_the_softmax(softcap: float | None, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(1)
    case = PagedCase.random(g, 6, 2, 16, 24, dtype, 16, [(1, 9), (5, 20), (1, 0)])
    sinks = 2 * torch.randn(6, generator=g)
    actual = paged_attention_reference(
        case.q,
        case.k_cache,
        case.v_cache,
        case.plan,
        scaling=0.3,
        window=8,
        softcap=softcap,
        sinks=sinks,
    )
    _assert_close(actual, case.expected(0.3, 8, softcap, sinks), dtype)


@DTYPES
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_linear_equals_the_dense_product(seed: int, int8: bool, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(seed)
    rows, n_in, n_out = _integer(g, 1, 40), 2 * _integer(g, 1, 200), _integer(g, 1, 200)
    x, w = (
        torch.randn(rows, n_in, generator=g).to(dtype),
        torch.randn(n_out, n_in, generator=g).to(dtype),
    )
    bias = torch.randn(n_out, generator=g).to(dtype) if seed % 2 else None
    packed = weights.pack_linear(library.load(), w, bias, int8)
    expected = x.double() @ w.double().T
    if int8:  # the stored weight is what is multiplied: its rounding is not this kernel's error
        values, scale = weights.quantize_int8(w)
        assert (
            float((values.double() * scale[:, None] - w.double()).abs().max())
            <= float(scale.max()) * 0.51
        )
        expected = x.double() @ (values.double() * scale[:, None].double()).T
    _assert_close(
        ops.linear(x, packed), expected + (bias.double() if bias is not None else 0), dtype
    )


@DTYPES
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_norms_equal_those_of_the_dense_weight(seed: int, int8: bool, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(seed)
    n_in, n_out, rank = 2 * _integer(g, 1, 200), _integer(g, 1, 200), _integer(g, 1, 40)
    a, b = torch.randn(rank, n_in, generator=g), torch.randn(n_out, rank, generator=g)
    packed = weights.pack_linear(
        library.load(), torch.randn(n_out, n_in, generator=g).to(dtype), None, int8
    )
    dense = weights.unpack_rows(library.load(), packed, 0, n_out, dtype).double()
    expected = (dense + 0.3 * b.double() @ a.double()).norm(dim=1)
    actual = weights.updated_norms(library.load(), packed, a, b, 0.3, dtype)
    _assert_close(actual, expected, torch.float32)


def test_int8_products_do_not_overflow() -> None:
    """The largest inputs and weights of a long row fit into int32."""
    k = 11008
    packed = weights.pack_linear(library.load(), torch.ones(3, k), None, int8=True)
    y = ops.linear(torch.full((2, k), 5.0), packed)
    torch.testing.assert_close(y, torch.full((2, 3), 5.0 * k), rtol=1e-3, atol=0)


def test_broken_input_stays_broken_in_int8() -> None:
    packed = weights.pack_linear(library.load(), torch.ones(3, 8), None, int8=True)
    x = torch.ones(2, 8)
    x[0, 3] = math.nan
    y = ops.linear(x, packed)
    assert y[0].isnan().all()
    assert y[1].isfinite().all()


@DTYPES
def test_a_row_does_not_depend_on_its_neighbours(dtype: torch.dtype) -> None:
    """Bit for bit, for every number of rows: what makes greedy output independent of the batch."""
    g = torch.Generator().manual_seed(0)
    n_in, n_out = 174, 130
    w, x = (
        torch.randn(n_out, n_in, generator=g).to(dtype),
        torch.randn(21, n_in, generator=g).to(dtype),
    )
    a, b = (
        torch.randn(13, n_in, generator=g).to(dtype),
        torch.randn(n_out, 13, generator=g).to(dtype),
    )
    run: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "linear": lambda rows: ops.linear(rows, weights.pack_linear(library.load(), w)),
        "bias": lambda rows: ops.linear(rows, weights.pack_linear(library.load(), w, w[:, 0])),
        "int8": lambda rows: ops.linear(
            rows, weights.pack_linear(library.load(), w, w[:, 0], True)
        ),
        "lora": lambda rows: _lora_of(rows, a, b),
    }
    for name, kernel in run.items():
        alone = torch.cat([kernel(x[i : i + 1]) for i in range(21)])
        for count in range(1, 22):
            assert torch.equal(kernel(x[:count]), alone[:count]), (name, count)


def _lora_of(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    y = torch.ones(x.shape[0], b.shape[0])
    ops.add_lora(y, x, [LoraSegment(0, x.shape[0], a, b, 0.5)])
    return y


@pytest.mark.parametrize("target", build.TARGETS)
def test_every_target_that_runs_here_gives_the_same(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runnable = list(build.TARGETS)[list(build.TARGETS).index(build.host_target()) :]
    if target not in runnable:
        pytest.skip(f"this processor cannot run {target}")
    monkeypatch.setattr(ops, "load", lambda: library.load(target))
    for seed in range(6):
        for dtype in TOLERANCE:
            test_lora_equals_the_dense_update(seed, "cpp", dtype)
            for int8 in (False, True):
                test_linear_equals_the_dense_product(seed, int8, dtype)
    for dtype in TOLERANCE:
        test_attention_equals_row_by_row(5, 3.0, 4, 1, 80, 96, "cpp", dtype)
