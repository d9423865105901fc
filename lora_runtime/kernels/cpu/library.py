"""The C interface of the kernels; csrc/api.cpp is the other side, and the structures are those of
its headers."""

from __future__ import annotations

import ctypes
import functools
from ctypes import POINTER, Structure, byref, c_double, c_float, c_int, c_int32, c_long, c_void_p
from typing import Any

import torch

from . import build

TILE = 16
"""Slots of the KV cache that lie together (csrc/attention.h); a KV block is a multiple of it."""
SLACK_BYTES = 64
"""What the kernels may read behind the last value tile."""


class Linear(Structure):
    _fields_ = [
        ("weight", c_void_p),
        ("scale", c_void_p),
        ("bias", c_void_p),
        ("n", c_int32),
        ("k", c_int32),
        ("module", c_int32),
        ("column", c_int32),
    ]


class Embedding(Structure):
    _fields_ = [
        ("rows", c_void_p),
        ("scale", c_float),
        ("module", c_int32),
        ("positions", c_void_p),
        ("tokens", c_int32),
        ("unused", c_int32),
        ("head", Linear),
    ]


class Norm(Structure):
    _fields_ = [
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("eps", c_float),
        ("rms", c_int32),
        ("module", c_int32),
        ("unused", c_int32),
    ]


class AttentionShape(Structure):
    _fields_ = [
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("dim", c_int32),
        ("dim_v", c_int32),
        ("window", c_int32),
        ("scaling", c_float),
        ("softcap", c_float),
    ]


class ModuleEntry(Structure):
    _fields_ = [
        ("a", c_void_p),
        ("b", c_void_p),
        ("rank", c_int32),
        ("scaling", c_float),
        ("out", c_int32),
        ("tokens", c_int32),
        ("gain", c_void_p),
        ("bias", c_void_p),
        ("dense", c_void_p),
        ("token_ids", c_void_p),
        ("token_rows", c_void_p),
    ]


class PackJob(Structure):
    _fields_ = [
        ("source", c_void_p),
        ("target", c_void_p),
        ("kind", c_int32),
        ("rows", c_int32),
        ("columns", c_int32),
        ("unused", c_int32),
    ]


class Segment(Structure):
    _fields_ = [
        ("table", c_void_p),
        ("start", c_int32),
        ("end", c_int32),
        ("weight", c_float),
        ("kinds", c_int32),
    ]


class Step(Structure):
    _fields_ = [
        ("rows", c_int32),
        ("sequences", c_int32),
        ("segments", c_int32),
        ("sampled", c_int32),
        ("tokens", c_void_p),
        ("positions", c_void_p),
        ("slots", c_void_p),
        ("query_start", c_void_p),
        ("context_lengths", c_void_p),
        ("block_tables", c_void_p),
        ("table_width", c_int32),
        ("block_size", c_int32),
        ("segment", c_void_p),
        ("sampled_rows", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("logits", c_void_p),
        ("greedy", c_void_p),
        ("threads", c_int32),
        ("unused", c_int32),
    ]


class SampleRow(Structure):
    _fields_ = [
        ("logits", c_void_p),
        ("temperature", c_float),
        ("top_p", c_float),
        ("min_p", c_float),
        ("u", c_float),
        ("top_k", c_int32),
        ("token", c_int32),
    ]


_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "lm_new": (c_void_p, [c_int]),
    "lm_delete": (None, [c_void_p]),
    "lm_buffer": (c_int, [c_void_p, c_int, c_int, c_int]),
    "lm_norm": (None, [c_void_p, c_int, c_int, c_int, c_int, POINTER(Norm)]),
    "lm_linear": (None, [c_void_p, c_int, c_int, c_int, POINTER(Linear), c_int]),
    "lm_embed": (None, [c_void_p, c_int, POINTER(Embedding)]),
    "lm_attention": (
        None,
        [
            c_void_p,
            c_int,
            c_int,
            c_int,
            c_int,
            POINTER(AttentionShape),
            POINTER(Norm),
            POINTER(Norm),
            c_int,
            c_void_p,
            c_void_p,
        ],
    ),
    "lm_activate": (None, [c_void_p, c_int, c_int, c_int, c_int, c_int, c_int]),
    "lm_gather": (None, [c_void_p, c_int, c_int]),
    "lm_argmax": (None, [c_void_p, c_float, c_int]),
    "lm_run": (None, [c_void_p, POINTER(Step)]),
    "lm_times": (c_int, [c_void_p, POINTER(c_double)]),
    "lm_pack": (None, [c_int, c_void_p, c_int, c_int, c_void_p]),
    "lm_pack_int8": (None, [c_void_p, c_int, c_int, c_void_p]),
    "lm_pack_adapter": (None, [c_int, POINTER(PackJob), c_int]),
    "lm_updated_norms": (
        None,
        [c_int, POINTER(Linear), c_void_p, c_void_p, c_int, c_float, c_void_p],
    ),
    "lm_unpack": (None, [c_int, POINTER(Linear), c_int, c_int, c_void_p]),
    "lm_sample": (None, [POINTER(SampleRow), c_int, c_int, c_int]),
    "lm_gemm": (None, [c_int, POINTER(Linear), c_void_p, c_int, c_void_p, c_int]),
    "lm_lora": (None, [c_int, POINTER(Step), c_void_p, c_int, c_void_p, c_int]),
    "lm_peak_seconds": (c_double, [c_int, c_long, c_int]),
    "lm_read_seconds": (c_double, [c_void_p, c_long, c_int]),
    "lm_paged_attention": (
        None,
        [c_int, POINTER(Step), POINTER(AttentionShape), c_void_p, c_void_p],
    ),
}


@functools.cache
def load(target: str | None = None) -> ctypes.CDLL:
    """The library for `target` (default: the best for this processor), built at the first call of
    all.

    Raises build.NoKernelsError.
    """
    path = build.library_path(target or build.host_target())
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise build.NoKernelsError(f"{path.name} cannot be loaded: {error}") from error
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def is_bf16(dtype: torch.dtype) -> bool:
    """Whether the kernels run in bf16 or float32. Raises NoKernelsError for another dtype."""
    if dtype not in (torch.bfloat16, torch.float32):
        raise build.NoKernelsError(f"no C++ kernels for {dtype}")
    return dtype == torch.bfloat16


__all__ = [
    "SLACK_BYTES",
    "TILE",
    "AttentionShape",
    "Embedding",
    "Linear",
    "ModuleEntry",
    "Norm",
    "PackJob",
    "SampleRow",
    "Segment",
    "Step",
    "byref",
    "is_bf16",
    "load",
]
