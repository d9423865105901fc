"""Writing keys and values into the paged cache in Triton: one launch for what takes torch four."""

from __future__ import annotations

import torch
import triton
from triton import language as tl

_BLOCK = 1024


def write_kv(
    keys: torch.Tensor,
    values: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
) -> None:
    """Store rows as kernels.cache.write_kv_reference does."""
    rows, kv_heads, dim = keys.shape
    widest = kv_heads * max(dim, values.shape[-1])
    _write_kernel[(rows, triton.cdiv(widest, _BLOCK))](
        keys,
        values,
        k_cache,
        v_cache,
        slots,
        *keys.stride(),
        *values.stride(),
        *k_cache.stride(),
        *v_cache.stride(),
        HEADS=kv_heads,
        D=dim,
        DV=values.shape[-1],
        BLOCK=min(_BLOCK, triton.next_power_of_2(widest)),
        num_warps=4,
    )


@triton.jit(do_not_specialize=("slots",))
def _write_kernel(
    keys,
    values,
    k_cache,
    v_cache,
    slots,
    keys_row,
    keys_head,
    keys_dim,
    values_row,
    values_head,
    values_dim,
    k_slot,
    k_head,
    k_dim,
    v_slot,
    v_head,
    v_dim,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """BLOCK values of one row's keys and of its values."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + tl.program_id(0)).to(tl.int64)
    element = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    head, dim = element // D, element % D
    kept = element < HEADS * D
    key = tl.load(keys + row * keys_row + head * keys_head + dim * keys_dim, mask=kept)
    tl.store(k_cache + slot * k_slot + head * k_head + dim * k_dim, key, mask=kept)
    head, dim = element // DV, element % DV
    kept = element < HEADS * DV
    value = tl.load(values + row * values_row + head * values_head + dim * values_dim, mask=kept)
    tl.store(v_cache + slot * v_slot + head * v_head + dim * v_dim, value, mask=kept)
