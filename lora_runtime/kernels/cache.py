"""Writing a step's keys and values into the paged cache."""

from __future__ import annotations

import torch


def write_kv_reference(
    keys: torch.Tensor,
    values: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
) -> None:
    """Store row t of `keys` (T, kv_heads, d) and `values` (T, kv_heads, d_v) at `slots[t]`, (T,)
    int32.

    Caches are (slots, kv_heads, d or d_v). Rows that share a slot leave one of theirs there.
    """
    index = slots.long()
    k_cache.index_copy_(0, index, keys)
    v_cache.index_copy_(0, index, values)
