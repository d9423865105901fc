"""The FlashInfer route with a stand-in for the package: what it is called with, and the choice of
the route."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch

from lora_runtime import BaseModelError
from lora_runtime.kernels import PlannedKernels, select
from lora_runtime.kernels.attention import AttentionPlan, paged_attention_reference
from lora_runtime.kernels.flashinfer import FlashInferAttention

from ...support.attention import PagedCase

CPU = torch.device("cpu")


class _Wrapper:
    """BatchPrefillWithPagedKVCacheWrapper as its documentation describes it, computed by the torch
    reference."""

    made: ClassVar[list[_Wrapper]] = []

    def __init__(
        self, float_workspace_buffer: torch.Tensor, kv_layout: str = "NHD", backend: str = "auto"
    ) -> None:
        assert float_workspace_buffer.dtype is torch.uint8
        assert (kv_layout, backend) == ("NHD", "fa2")
        self.workspace, self.plans = float_workspace_buffer, 0
        self.made.append(self)

    def plan(
        self,
        qo_indptr: torch.Tensor,
        paged_kv_indptr: torch.Tensor,
        paged_kv_indices: torch.Tensor,
        paged_kv_last_page_len: torch.Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        page_size: int,
        *,
        causal: bool = False,
        sm_scale: float | None = None,
        window_left: int = -1,
        logits_soft_cap: float | None = None,
        q_data_type: Any,
        kv_data_type: Any,
        fixed_split_size: int,
    ) -> None:
        arrays = (qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len)
        assert all(a.dtype is torch.int32 and a.device.type == "cpu" for a in arrays)
        assert causal
        assert fixed_split_size * page_size == 2048
        assert q_data_type == kv_data_type
        assert ((paged_kv_last_page_len >= 1) & (paged_kv_last_page_len <= page_size)).all()
        counts = paged_kv_indptr.diff()
        assert len(paged_kv_indices) == paged_kv_indptr[-1]
        tables = torch.zeros(len(counts), int(counts.max()), dtype=torch.int32)
        for i, pages in enumerate(paged_kv_indices.split(counts.tolist())):
            tables[i, : len(pages)] = pages
        self._heads, self._page_size = (num_qo_heads, num_kv_heads, head_dim_qk), page_size
        self._how: dict[str, Any] = {
            "scaling": sm_scale,
            "window": None if window_left < 0 else window_left + 1,
            "softcap": logits_soft_cap,
        }
        lengths = ((counts - 1) * page_size + paged_kv_last_page_len).int()
        self._plan = AttentionPlan(torch.empty(0), qo_indptr, lengths, tables, page_size)
        self.plans += 1

    def run(
        self, q: torch.Tensor, paged_kv_cache: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        assert q.is_contiguous()
        k, v = paged_kv_cache
        assert k.shape[1:] == v.shape[1:] == (self._page_size, *self._heads[1:])
        assert q.shape[1:] == (self._heads[0], self._heads[2])
        return paged_attention_reference(
            q, k.flatten(0, 1), v.flatten(0, 1), self._plan, **self._how
        )


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> type[_Wrapper]:
    module = ModuleType("flashinfer")
    module.BatchPrefillWithPagedKVCacheWrapper = _Wrapper  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flashinfer", module)
    monkeypatch.setattr(_Wrapper, "made", [])
    return _Wrapper


class _Arrays:
    """A plan's arrays on the host, as a StepBatch has them."""

    def __init__(self, plan: AttentionPlan) -> None:
        self.slots, self.query_start, self.context_lengths, self.block_tables = (
            t.numpy()
            for t in (plan.slots, plan.query_start, plan.context_lengths, plan.block_tables)
        )
        self.block_size = plan.block_size


def _case(dim: int = 64, dtype: torch.dtype = torch.bfloat16) -> tuple[PagedCase, AttentionPlan]:
    g = torch.Generator().manual_seed(0)
    sequences = [(1, 15), (7, 9), (1, 0), (20, 12)]
    case = PagedCase.random(g, 4, 2, dim, dim, dtype, 16, sequences)
    return case, AttentionPlan.of(_Arrays(case.plan), CPU)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_a_step(package: type[_Wrapper], window: int | None, softcap: float | None) -> None:
    case, plan = _case()
    attention = FlashInferAttention(CPU)
    for _ in range(3):  # layers
        actual = attention(
            case.q, case.k_cache, case.v_cache, plan, scaling=0.3, window=window, softcap=softcap
        )
        torch.testing.assert_close(
            actual.double(), case.expected(0.3, window, softcap), rtol=2e-2, atol=2e-2
        )
    assert [w.plans for w in package.made] == [1]


def test_layers_of_two_kinds_and_two_steps(package: type[_Wrapper]) -> None:
    case, first = _case()
    attention = FlashInferAttention(CPU)
    for plan in (first, AttentionPlan.of(_Arrays(case.plan), CPU)):
        for window in (None, 5, None, 5):
            actual = attention(case.q, case.k_cache, case.v_cache, plan, scaling=0.3, window=window)
            torch.testing.assert_close(
                actual.double(), case.expected(0.3, window), rtol=2e-2, atol=2e-2
            )
    assert [w.plans for w in package.made] == [2, 2]
    assert package.made[0].workspace is package.made[1].workspace


def test_what_it_has_no_kernel_for_is_refused(package: type[_Wrapper]) -> None:
    attention = FlashInferAttention(CPU)
    for dims, dtype, told in (
        ((80, 80), torch.bfloat16, "80"),
        ((64, 128), torch.bfloat16, "128"),
        ((64, 64), torch.float32, "float32"),
    ):
        with pytest.raises(BaseModelError, match=told):
            attention.check(*dims, dtype)
    case, plan = _case(dtype=torch.float32)
    with pytest.raises(BaseModelError, match="float32"):
        attention(case.q, case.k_cache, case.v_cache, plan, scaling=0.3)
    case, _ = _case()
    with pytest.raises(ValueError, match="host"):
        attention(case.q, case.k_cache, case.v_cache, case.plan, scaling=0.3)


def test_the_choice(package: type[_Wrapper], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert select(CPU).names == {"lora": "torch/cpu", "paged_attention": "torch/cpu"}
    for route in ("auto", "triton"):
        kernels = select(CPU, "triton", route)
        assert kernels.names == {"lora": "triton", "paged_attention": "triton"}
        assert kernels.captures
        assert isinstance(kernels, PlannedKernels)
        assert kernels.update_group is not None
    kernels = select(CPU, "triton", "flashinfer")
    assert kernels.names == {"lora": "triton", "paged_attention": "flashinfer"}
    assert not kernels.captures
    with pytest.raises(BaseModelError, match="head dims 33"):
        kernels.check_heads(33, 33, torch.bfloat16)
    for how in (("auto", "flashinfer"), ("torch", "triton")):
        with pytest.raises(BaseModelError, match="CUDA"):
            select(CPU, *how)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(BaseModelError, match="TRITON_INTERPRET"):
        select(CPU, "triton")


def test_packages_that_are_not_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(sys.modules, "flashinfer", None)
    with pytest.raises(BaseModelError, match="flashinfer-python"):
        select(CPU, "triton", "flashinfer")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BaseModelError, match="not installed"):
        select(CPU, "triton")
    cuda = torch.device("cuda")
    assert select(cuda).names["paged_attention"] == "torch/cuda"
    assert "no triton package" in caplog.text
