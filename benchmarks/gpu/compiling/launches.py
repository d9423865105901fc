"""The launches of real bases' steps, as data: what is compiled, and what must hold of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import torch

from benchmarks.gpu.cost import LLAMA_8B, QWEN3_8B, SMOLLM2, Shape
from benchmarks.gpu.errors import WIDE
from benchmarks.gpu.sanitized import SHAPE as SANITIZED
from lora_runtime.kernels import prefill_tiles
from lora_runtime.kernels.attention import AttentionPlan
from lora_runtime.kernels.plan import DECODE_TILE, PlanBuffers
from lora_runtime.kernels.slot_table import ModuleGroup, SlotTable
from lora_runtime.kernels.triton.attention_tiles import Heads, decode_tile
from lora_runtime.modules import BaseModule, ModuleKind

PREFILL_ROWS = {"wgmma": 64, "mma": prefill_tiles.MOST_MMA_ROWS}
"""Of a tile, by the kind of products."""
_WIDTH = 64
"""Blocks of 16 positions for a sequence."""
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@dataclass(frozen=True)
class LoraLaunch:
    """update_group on projections of one x: two kernels."""

    base: str
    inputs: int
    outs: tuple[int, ...]
    dtype: torch.dtype
    decode: bool
    kind: str = "wgmma"
    bias: bool = False

    kernels = 2
    """How many it compiles."""

    @property
    def name(self) -> str:
        step = "decode" if self.decode else f"prefill {self.kind}"
        return f"lora {self.inputs} to {'+'.join(map(str, self.outs))} {_short(self.dtype)} {step}"

    def __call__(self) -> None:
        from lora_runtime.kernels.triton.lora import update_group

        modules = {
            str(i): BaseModule(ModuleKind.LINEAR, self.inputs, out, False)
            for i, out in enumerate(self.outs)
        }
        cpu, width = torch.device("cpu"), sum(self.outs)
        table = SlotTable(modules, 1, self.dtype, cpu)
        plan = PlanBuffers(
            1, 1, 1, DECODE_TILE if self.decode else PREFILL_ROWS[self.kind], cpu
        ).plan
        group = ModuleGroup(
            0, self.inputs, self.outs, torch.empty(width, dtype=self.dtype) if self.bias else None
        )
        x, y = (
            torch.empty(1, self.inputs, dtype=self.dtype),
            torch.empty(1, width, dtype=self.dtype),
        )
        with mock.patch.object(prefill_tiles, "KIND", self.kind):
            update_group(y, x, group, plan, table)


@dataclass(frozen=True)
class AttentionLaunch:
    """paged_attention of a step with chunks and decode rows, and its write."""

    base: str
    heads: Heads
    dtype: torch.dtype
    how: Mapping[str, Any] = field(default_factory=dict)
    """window, softcap"""
    kind: str = "wgmma"

    @property
    def kernels(self) -> int:
        """How many it compiles: the last adds up splits of a decode row, of which short windows
        have one."""
        return (
            4
            if decode_tile(self.heads, self.dtype).most_splits(_WIDTH * 16, self.how.get("window"))
            > 1
            else 3
        )

    @property
    def name(self) -> str:
        h, how = self.heads, " ".join(self.how)
        dims = f"{h.heads}/{h.kv_heads} of {h.dim}" + (
            f" and {h.dim_v}" if h.dim_v != h.dim else ""
        )
        return " ".join(
            part for part in ("attention", dims, _short(self.dtype), how, self.kind) if part
        )

    def __call__(self, decode_rows: int = 1, width: int = _WIDTH) -> None:
        """`width`: of the block table, and where its arrays begin."""
        from lora_runtime.kernels.triton.attention import paged_attention
        from lora_runtime.kernels.triton.cache import write_kv

        h = self.heads
        k_cache, v_cache = (
            torch.zeros(2048, h.kv_heads, d, dtype=self.dtype) for d in (h.dim, h.dim_v)
        )
        sequences, rows = 1 + decode_rows, 7 + decode_rows
        ints = [
            torch.zeros(width + n, dtype=torch.int32)[width:]
            for n in (rows, sequences + 1, sequences)
        ]
        tables = torch.zeros(width + sequences * width, dtype=torch.int32)[width:].view(
            sequences, width
        )
        plan = AttentionPlan(*ints, tables, block_size=16)
        q = torch.zeros(rows, h.heads, h.dim, dtype=self.dtype)
        with mock.patch.object(prefill_tiles, "KIND", self.kind):
            paged_attention(q, k_cache, v_cache, plan, scaling=0.1, **self.how)
        write_kv(k_cache[:rows].clone(), v_cache[:rows].clone(), k_cache, v_cache, plan.slots)


Launch = LoraLaunch | AttentionLaunch


def _short(dtype: torch.dtype) -> str:
    return {BF16: "bf16", FP16: "fp16", FP32: "fp32"}[dtype]


def groups(shape: Shape) -> list[tuple[int, tuple[int, ...]]]:
    """(inputs, outputs) of the fused projections of a layer, and of the lm_head."""
    p = shape.projections
    fused = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
    return [
        *((p[names[0]][0], tuple(p[n][1] for n in names)) for names in fused),
        (shape.hidden, (shape.vocab,)),
    ]


def _loras(
    shape: Shape, dtypes: Iterable[torch.dtype], decode: bool = True
) -> Iterator[LoraLaunch]:
    for dtype in dtypes:
        for inputs, outs in groups(shape):
            if decode:
                yield LoraLaunch(shape.name, inputs, outs, dtype, True)
            yield LoraLaunch(shape.name, inputs, outs, dtype, False)


def _heads(shape: Shape) -> Heads:
    return Heads(shape.heads, shape.kv_heads, shape.head_dim, shape.head_dim)


def of_the_stages() -> list[Launch]:
    """What the stages behind this one launch on a GPU; the narrow prefill tiles last, which may not
    be needed."""
    windowed, both = {"window": 33}, {"window": 20, "softcap": 10.0}
    outs = (WIDE.heads * WIDE.head_dim, WIDE.hidden // 2)
    found: list[Launch] = [
        *_loras(LLAMA_8B, [BF16]),
        *(
            AttentionLaunch(LLAMA_8B.name, _heads(LLAMA_8B), d, how)
            for d in (BF16, FP16)
            for how in ({}, windowed)
        ),
        *_loras(QWEN3_8B, [BF16]),
        *_loras(LLAMA_8B, [FP16], decode=False),
        *(
            LoraLaunch(WIDE.name, WIDE.hidden, outs, d, decode)
            for d in (BF16, FP16, FP32)
            for decode in (True, False)
        ),
        *(
            AttentionLaunch(WIDE.name, _heads(WIDE), d, how)
            for d in (BF16, FP16, FP32)
            for how in ({}, both)
        ),
        *_loras(SMOLLM2, [FP32, BF16]),
        *(AttentionLaunch(SMOLLM2.name, _heads(SMOLLM2), d) for d in (FP32, BF16)),
        *_loras(SANITIZED, [BF16], decode=False),
        AttentionLaunch(SANITIZED.name, _heads(SANITIZED), BF16),
    ]
    narrow = (
        launch for launch in found if isinstance(launch, AttentionLaunch) or not launch.decode
    )
    found = [*found, *(replace(launch, kind="mma") for launch in narrow)]
    return list({launch.name: launch for launch in found}.values())


QWEN_2_5 = Shape("qwen-2.5-0.5b", 896, 4864, 24, 14, 2, 64, 151936)
QUICK: dict[int, list[Launch]] = {
    80: [
        LoraLaunch(LLAMA_8B.name, *groups(LLAMA_8B)[0], BF16, decode, bias=True)
        for decode in (True, False)
    ]
    + [AttentionLaunch(LLAMA_8B.name, _heads(LLAMA_8B), BF16)],
    89: [
        AttentionLaunch("gemma-2", Heads(8, 4, 256, 256), BF16, {"window": 4096, "softcap": 50.0})
    ],
    90: [
        LoraLaunch(LLAMA_8B.name, *groups(LLAMA_8B)[0], BF16, False, kind, bias=True)
        for kind in PREFILL_ROWS
    ]
    + [
        LoraLaunch(QWEN_2_5.name, *groups(QWEN_2_5)[2], FP16, True),
        LoraLaunch(SMOLLM2.name, *groups(SMOLLM2)[3], FP32, True),
    ]
    + [AttentionLaunch(LLAMA_8B.name, _heads(LLAMA_8B), BF16, {}, kind) for kind in PREFILL_ROWS],
}
"""By capability: a look at each kind of kernel."""


def of_the_table() -> list[Launch]:
    """What is compiled for every kind of GPU: shapes that fill registers or shared memory, and odd
    ones."""
    return [
        *(
            LoraLaunch(LLAMA_8B.name, *groups(LLAMA_8B)[0], BF16, decode, kind, bias=True)
            for decode, kind in ((True, "wgmma"), (False, "wgmma"), (False, "mma"))
        ),
        *(
            LoraLaunch(LLAMA_8B.name, *groups(LLAMA_8B)[i], BF16, decode)
            for i in (2, 3)
            for decode in (True, False)
        ),
        *(
            LoraLaunch(QWEN_2_5.name, *groups(QWEN_2_5)[2], FP16, decode)
            for decode in (True, False)
        ),
        *(LoraLaunch(SMOLLM2.name, *groups(SMOLLM2)[3], FP32, decode) for decode in (True, False)),
        *(
            AttentionLaunch(LLAMA_8B.name, _heads(LLAMA_8B), BF16, {}, kind)
            for kind in PREFILL_ROWS
        ),
        AttentionLaunch("odd dims", Heads(14, 2, 40, 33), FP16, {"window": 300, "softcap": 50.0}),
        AttentionLaunch("gemma-2", Heads(8, 4, 256, 256), BF16, {"window": 4096, "softcap": 50.0}),
        AttentionLaunch("widest", Heads(32, 1, 512, 512), BF16, {"window": 4096}),
        AttentionLaunch(SMOLLM2.name, _heads(SMOLLM2), FP32),
        AttentionLaunch("wide float32", Heads(8, 4, 256, 256), FP32),
    ]
