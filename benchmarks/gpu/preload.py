"""Imports what most stages need, before they are forked. Nothing here may touch a GPU: a fork would
lose it."""

from __future__ import annotations

import torch
import transformers.models.llama.modeling_llama
import transformers.models.qwen3.modeling_qwen3  # noqa: F401

import lora_runtime
import lora_runtime.kernels.triton.attention
import lora_runtime.kernels.triton.cache
import lora_runtime.kernels.triton.lora  # noqa: F401
from benchmarks.gpu import bases, errors, inputs, kernels, machine, steps  # noqa: F401

if torch.cuda.is_initialized():
    raise RuntimeError("an import has initialised CUDA")
