"""What the benchmarks hold a step against: its FLOPs are those that torch counts in PEFT's forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.common.tables import filled
from benchmarks.gpu.cost import (
    LLAMA_8B,
    TINY,
    Rows,
    attention_cost,
    linear_cost,
    lora_cost,
    step_cost,
)
from benchmarks.gpu.tables import PAGE, tables

RANK = 5


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    eager: dict[str, Any] = {
        "attn_implementation": "eager"
    }  # which every configuration takes, and none names
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=TINY.vocab,
            hidden_size=TINY.hidden,
            intermediate_size=TINY.intermediate,
            num_hidden_layers=TINY.layers,
            num_attention_heads=TINY.heads,
            num_key_value_heads=TINY.kv_heads,
            head_dim=TINY.head_dim,
            **eager,
        )
    ).eval()


@torch.no_grad()
def counted(model: torch.nn.Module, context: int) -> int:
    """FLOPs of one new token, the last of `context`."""
    past = model(torch.zeros(1, context - 1, dtype=torch.long))
    name = "cache" if "cache" in past else "past_key_values"  # as transformers before 5.20 calls it
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 1, dtype=torch.long), **{name: past[name]})
    # Angles, which transformers before 5.20 makes of a product, are no work of a step.
    angles: dict[Any, int] = next(
        (ops for name, ops in counter.flop_counts.items() if name.endswith("rotary_emb")), {}
    )
    return counter.get_total_flops() - sum(angles.values())


def test_flops_are_those_that_torch_counts(model: LlamaForCausalLM) -> None:
    for context in (2, 40):
        parts = step_cost(TINY, [Rows(1, context)])
        assert parts["base"].flops + parts["attention"].flops == counted(model, context)
        assert parts["lora"].flops == parts["lora"].num_bytes == 0
    plain = counted(model, 9)
    adapted = get_peft_model(model, LoraConfig(r=RANK, target_modules=list(TINY.projections)))
    lora = step_cost(TINY, [Rows(1, 9, RANK)])["lora"]
    assert lora.flops == counted(adapted, 9) - plain
    assert lora.num_bytes == sum(
        p.nbytes for name, p in adapted.named_parameters() if "lora_" in name
    )


def test_shared_adapters_and_the_base_are_read_once() -> None:
    one, two = (
        step_cost(LLAMA_8B, [Rows(1, 10, 16, 0), Rows(1, 20, 16, second)]) for second in (0, 1)
    )
    assert two["lora"].num_bytes == 2 * one["lora"].num_bytes
    assert two["lora"].flops == one["lora"].flops
    assert one["base"].num_bytes == step_cost(LLAMA_8B, [Rows(1, 10)])["base"].num_bytes
    assert one["attention"].num_bytes == 30 * LLAMA_8B.kv_bytes_per_token


def test_a_chunk_sees_what_lies_before_it() -> None:
    rows = sum(step_cost(TINY, [Rows(1, c)])["attention"].flops for c in range(8, 12))
    assert step_cost(TINY, [Rows(4, 11)])["attention"].flops == rows


def test_kernel_costs_sum_up_to_the_step_s() -> None:
    rows, ranks = [3, 1], [4, 16]
    step = step_cost(
        TINY, [Rows(n, n, r, i) for i, (n, r) in enumerate(zip(rows, ranks, strict=True))]
    )
    inputs_of = TINY.projections.values()
    assert step["lora"].flops == TINY.layers * sum(
        lora_cost(rows, ranks, i, [o], 4).flops for i, o in inputs_of
    )
    fused = lora_cost(rows, ranks, 64, [64, 32, 32], 4)
    assert fused.flops == sum(lora_cost(rows, ranks, 64, [o], 4).flops for o in (64, 32, 32))
    assert step["attention"].flops == TINY.layers * attention_cost(rows, rows, TINY).flops
    linears = sum(linear_cost(sum(rows), i, o, 4).flops for i, o in inputs_of)
    assert step["base"].flops == TINY.layers * linears + 2.0 * len(rows) * TINY.head_values


def test_the_page_s_tables_are_computed() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert all(
        f"<!-- table {name} -->\n{content}<!-- end -->" in text
        for name, content in tables().items()
    )
    assert filled(text, tables()) == text
