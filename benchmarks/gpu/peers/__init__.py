"""What others do with the LoRA of a mixed batch, at the same shapes, in the same memory, under the
same clock.

S-LoRA's ablation gathers and pads (arXiv:2311.03285); Punica's BGMV is a program a row and block
(arXiv:2310.18547); PEFT loops over adapters; A of all slots can be one matrix, or lie below the
base's weight.

May import: gpu, lora_runtime.kernels, lora_runtime.kernels.triton.
"""

from __future__ import annotations

from collections.abc import Callable

from . import bgmv, gathered, grouped_gemm, peft_loop, plain
from .inputs import Inputs
from .variant import Variant

OURS, MERGED = "loramux", "merged"
VARIANTS: dict[str, Callable[[Inputs], Variant]] = {
    MERGED: plain.merged,
    OURS: plain.ours,
    "bgmv": bgmv.bgmv,
    "dense A, bgmv expand": bgmv.dense,
    "A below W, bgmv expand": bgmv.stacked,
    "gathered bmm": gathered.exact_rank,
    "gathered bmm, padded to 64": gathered.padded_to_64,
    "PEFT's loop": peft_loop.loop,
    "grouped GEMM": grouped_gemm.grouped_gemm,
}
"""Builders by name. The last is the likeliest to refuse to be captured."""
