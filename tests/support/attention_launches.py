"""Launches of the attention kernels in the shapes of real models, to be compiled."""

from __future__ import annotations

import numpy as np
import torch

from lora_runtime.kernels.attention import AttentionPlan


def launch_all() -> None:
    bf16 = torch.bfloat16
    _launch(32, 8, 128, 128, bf16)  # Llama 3, Mistral
    _launch(14, 2, 64, 64, bf16)  # Qwen 2 of half a billion
    _launch(8, 4, 256, 256, bf16, window=4096, softcap=50.0)  # Gemma 2
    _launch(32, 32, 96, 80, torch.float16)
    _launch(9, 3, 64, 64, torch.float32)
    _launch(4, 4, 128, 128, torch.float32)


def _launch(heads: int, kv_heads: int, dim: int, dim_v: int, dtype: torch.dtype, **how: float) -> None:
    from lora_runtime.kernels.triton.attention import paged_attention
    from lora_runtime.kernels.triton.cache import write_kv

    lengths = np.array([1000, 64], np.int32)
    tables = np.arange(128, dtype=np.int32).reshape(2, 64)
    caches = [torch.zeros(2048, kv_heads, d, dtype=dtype) for d in (dim, dim_v)]
    for counts in ([1, 1], [7, 1]):
        starts = np.array([0, *np.cumsum(counts)], np.int32)
        arrays = [torch.from_numpy(a) for a in (np.zeros(starts[-1], np.int32), starts, lengths, tables)]
        plan = AttentionPlan(*arrays, block_size=16)
        paged_attention(torch.zeros(int(starts[-1]), heads, dim, dtype=dtype), *caches, plan, scaling=0.1, **how)
    write_kv(*(c[:2].clone() for c in caches), *caches, torch.zeros(2, dtype=torch.int32))
