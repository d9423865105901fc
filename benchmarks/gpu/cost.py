"""FLOPs and bytes of a step, by part: what docs/internals/gpu.md derives and the benchmarks are
held against.

Bytes are the least that must move: each weight, adapter and cached key or value once a step.
Activations are left out: at decode they are below a hundredth of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A Llama-like base; `dtype_bytes` is per value of weights, adapters and KV cache."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    dtype_bytes: int = 2
    family: str = "llama"
    """transformers' model type: what lies between the projections."""

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """Name → (in, out) of one layer."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, q),
            "k_proj": (self.hidden, kv),
            "v_proj": (self.hidden, kv),
            "o_proj": (q, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def linear_values(self) -> int:
        """Weights of all layers' projections."""
        return self.layers * sum(i * o for i, o in self.projections.values())

    @property
    def head_values(self) -> int:
        return self.vocab * self.hidden

    def adapter_values(self, rank: int) -> int:
        """A and B of an adapter of `rank` on every projection."""
        return self.layers * rank * sum(i + o for i, o in self.projections.values())

    @property
    def kv_bytes_per_token(self) -> int:
        return self.layers * 2 * self.kv_heads * self.head_dim * self.dtype_bytes


LLAMA_8B = Shape("llama-3-8b", 4096, 14336, 32, 32, 8, 128, 128256)
QWEN3_8B = Shape("qwen3-8b", 4096, 12288, 36, 32, 8, 128, 151936, family="qwen3")
SMOLLM2 = Shape("smollm2-135m", 576, 1536, 30, 9, 3, 64, 49152)
TINY = Shape("tiny", 64, 96, 2, 4, 2, 16, 258, dtype_bytes=4)
TINY_QWEN3 = Shape("tiny-qwen3", 64, 96, 2, 4, 2, 16, 258, dtype_bytes=4, family="qwen3")


@dataclass(frozen=True)
class Rows:
    """`new` tokens of one sequence whose context is then `context` long, under an adapter of `rank`
    (0: the base).

    `adapter` tells adapters apart: one that several sequences share is read once.
    """

    new: int
    context: int
    rank: int = 0
    adapter: int = 0


@dataclass(frozen=True)
class Cost:
    flops: float = 0
    num_bytes: float = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.num_bytes + other.num_bytes)

    def seconds(self, bandwidth: float, rate: float) -> float:
        """The least time at `bandwidth` bytes/s and `rate` FLOP/s: the roofline (Williams et al.,
        2009)."""
        return max(self.num_bytes / bandwidth, self.flops / rate)


def step_cost(shape: Shape, rows: Sequence[Rows]) -> dict[str, Cost]:
    """By part: base (projections and lm_head), attention, lora. One row a sequence samples."""
    tokens, size = sum(r.new for r in rows), shape.dtype_bytes
    base = Cost(
        2.0 * (shape.linear_values * tokens + shape.head_values * len(rows)),
        float(size * (shape.linear_values + shape.head_values)),
    )
    # The queries of a chunk see context - new + 1, ..., context keys.
    visible = sum(r.new * r.context - r.new * (r.new - 1) / 2 for r in rows)
    attention = Cost(
        4.0 * shape.layers * shape.heads * shape.head_dim * visible,
        float(shape.kv_bytes_per_token * sum(r.context for r in rows)),
    )
    distinct = {(r.adapter, r.rank) for r in rows if r.rank}
    lora = Cost(
        2.0 * sum(shape.adapter_values(r.rank) * r.new for r in rows),
        float(size * sum(shape.adapter_values(rank) for _, rank in distinct)),
    )
    return {"base": base, "attention": attention, "lora": lora}


def linear_cost(rows: int, inputs: int, outputs: int, dtype_bytes: int) -> Cost:
    """One projection of the base; x and y are counted, which at prefill weigh as much as the
    weight."""
    return Cost(
        2.0 * rows * inputs * outputs,
        float(dtype_bytes * (inputs * outputs + rows * (inputs + outputs))),
    )


def lora_cost(
    rows: Sequence[int], ranks: Sequence[int], inputs: int, outs: Sequence[int], dtype_bytes: int
) -> Cost:
    """`rows[i]` rows of adapter i of rank `ranks[i]`, on projections of `outs` outputs that read
    the same x."""
    per_rank = len(outs) * inputs + sum(outs)
    values = sum(ranks) * per_rank + sum(rows) * (inputs + 2 * sum(outs))  # y is read and written
    return Cost(
        2.0 * per_rank * sum(n * r for n, r in zip(rows, ranks, strict=True)),
        float(dtype_bytes * values),
    )


def attention_cost(new: Sequence[int], contexts: Sequence[int], shape: Shape) -> Cost:
    """One layer's; q and the output are counted as well."""
    width, size = shape.heads * shape.head_dim, shape.dtype_bytes
    visible = sum(n * c - n * (n - 1) / 2 for n, c in zip(new, contexts, strict=True))
    kv = 2 * shape.kv_heads * shape.head_dim * sum(contexts)
    return Cost(4.0 * width * visible, float(size * (kv + 2 * width * sum(new))))
