"""Paged attention by FlashInfer (arXiv:2501.01005, the package flashinfer-python), where it is
asked for.

One wrapper, BatchPrefillWithPagedKVCacheWrapper, takes chunks and decode rows alike. It plans a
step on the host, once for all layers that attend in the same way, so a step with it is not captured
as a CUDA graph.

Unlike loramux's own kernels it does not promise that NaN in keys and values that a row does not see
stays away from it. It reads none behind a context; within a chunk only rows of one sequence meet,
and those that others find in the cache never meet rows under an adapter (Sequence.next_chunk).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import BaseModelError
from .attention import AttentionPlan, RowArrays

_WORKSPACE_BYTES = 128 << 20  # what its documentation recommends
_SPLIT_KEYS = 2048
_DIMS = (64, 128, 256)
_DTYPES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class _Call:
    """What a plan is made for, beside the step's rows."""

    heads: int
    kv_heads: int
    dim: int
    dtype: torch.dtype
    scaling: float
    window: int | None
    softcap: float | None


class FlashInferAttention:
    """Called as kernels.attention.paged_attention_reference. Its plans must have `host`.

    The backend is fa2 with splits of a fixed size: those are its settings under which a row's
    result does not depend on the batch.
    """

    def __init__(self, device: torch.device) -> None:
        """Raises BaseModelError if the package is not there."""
        try:
            self._package = importlib.import_module("flashinfer")
        except ImportError as error:
            raise BaseModelError(
                f"attention 'flashinfer' needs the package flashinfer-python: {error}"
            ) from error
        self._device = device
        self._workspace: torch.Tensor | None = None
        self._wrappers: dict[_Call, Any] = {}
        self._planned: dict[_Call, AttentionPlan] = {}

    def __call__(
        self,
        q: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        plan: AttentionPlan,
        *,
        scaling: float,
        window: int | None = None,
        softcap: float | None = None,
    ) -> torch.Tensor:
        self.check(q.shape[2], v_cache.shape[2], q.dtype)
        call = _Call(q.shape[1], k_cache.shape[1], q.shape[2], q.dtype, scaling, window, softcap)
        if call not in self._wrappers:
            self._add(call)
        wrapper = self._wrappers[call]
        if self._planned.get(call) is not plan:
            self._plan(wrapper, call, plan)
            self._planned[call] = plan
        pages = tuple(c.unflatten(0, (-1, plan.block_size)) for c in (k_cache, v_cache))
        return wrapper.run(q.contiguous(), pages)

    def check(self, dim: int, dim_v: int, dtype: torch.dtype) -> None:
        """Raises BaseModelError for head dims or a dtype that FlashInfer's kernels do not have."""
        if dim not in _DIMS or dim != dim_v:
            raise BaseModelError(
                f"FlashInfer has no kernel for head dims {dim} and {dim_v}: use attention triton"
            )
        if dtype not in _DTYPES:
            raise BaseModelError(
                f"FlashInfer has no kernel for {dtype}: use attention triton, or a 16-bit dtype"
            )

    def _add(self, call: _Call) -> None:
        if self._workspace is None:  # zeros, as in its documentation; calls take turns on it
            self._workspace = torch.zeros(_WORKSPACE_BYTES, dtype=torch.uint8, device=self._device)
        self._wrappers[call] = self._package.BatchPrefillWithPagedKVCacheWrapper(
            self._workspace, kv_layout="NHD", backend="fa2"
        )

    def _plan(self, wrapper: Any, call: _Call, plan: AttentionPlan) -> None:
        if plan.host is None:
            raise ValueError(
                "FlashInfer plans on the host: the AttentionPlan needs its host arrays"
            )
        pages_start, pages, last = _pages(plan.host)
        wrapper.plan(
            torch.from_numpy(plan.host.query_start.copy()),
            pages_start,
            pages,
            last,
            call.heads,
            call.kv_heads,
            call.dim,
            plan.block_size,
            causal=True,
            sm_scale=call.scaling,
            window_left=-1 if call.window is None else call.window - 1,
            logits_soft_cap=call.softcap,
            q_data_type=call.dtype,
            kv_data_type=call.dtype,
            fixed_split_size=max(1, _SPLIT_KEYS // plan.block_size),
        )


def _pages(rows: RowArrays) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Block tables in FlashInfer's form: (S + 1,) starts in a list of pages, the list, (S,)
    positions in the last."""
    counts = -(-rows.context_lengths // rows.block_size)
    starts = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=starts[1:])
    used = np.arange(rows.block_tables.shape[1]) < counts[:, None]
    last = rows.context_lengths - (counts - 1) * rows.block_size
    return tuple(
        torch.from_numpy(a.astype(np.int32)) for a in (starts, rows.block_tables[used], last)
    )  # type: ignore[return-value]
