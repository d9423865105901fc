"""Bases of many kinds are served as PEFT computes them, with LoRA on their attention: mixtures of
experts, attention twice in a layer, layers that run several times."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from lora_runtime import BaseModel

from ...support.models import SHAPE, VOCAB, make_tokenizer
from ...support.reference import relative_error
from ...support.slow import slow_but
from ...support.updates import POSITIONS, Row, make_adapter, random_adapter, run, updates_of
from ...support.versions import need

EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "head_dim": 16,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "afmoe": EXPERTS,
    "diffllama": {},
    "dory": {"num_hidden_layers": 3, "n_input_layers": 1, "n_output_layers": 1, "head_dim": 16},
    "ernie4_5_moe": EXPERTS | {"moe_num_experts": 4, "moe_k": 2},
    "flex_olmo": EXPERTS,
    "granitemoe": EXPERTS,
    "hrm_text": {"initializer_range": 0.02, "head_dim": 16},
    "jetmoe": EXPERTS | {"kv_channels": 16},
    "minimax_m2": EXPERTS,
    "mixtral": EXPERTS,
    "olmoe": EXPERTS,
    "phimoe": EXPERTS,
    "qwen2_moe": EXPERTS,
    "qwen3_moe": EXPERTS,
}
TARGETS = {"jetmoe": ["kv_proj"]}


def _model(kind: str) -> PreTrainedModel:
    if kind == "dory":
        need("transformers", 5, 24, kind)
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**(SHAPE | {"num_hidden_layers": 2} | FAMILIES[kind]))
    return AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    ).eval()


@pytest.mark.parametrize("kind", slow_but(["diffllama", "dory", "mixtral"], FAMILIES))
def test_a_mixed_batch_equals_peft(kind: str) -> None:
    targets = TARGETS.get(kind, ["q_proj", "v_proj", "o_proj"])
    peft = random_adapter(_model(kind), 1, r=4, target_modules=targets)
    base = BaseModel.of(_model(kind), make_tokenizer(), kind, kernels="torch")
    base.open_slots(1)
    adapter = make_adapter(base, updates_of(peft, _model(kind), base.modules))
    generator = torch.Generator().manual_seed(2)
    tokens = [torch.randint(VOCAB, (14,), generator=generator).tolist() for _ in range(2)]
    rows = [Row(tokens[0], [(adapter, 1.0)]), Row(tokens[1])]
    found = run(base.make_runner(4, 16), rows)
    models: list[Any] = [peft, _model(kind)]
    for row, wanted, logits in zip(rows, models, found, strict=True):
        with torch.inference_mode():
            expected = wanted(input_ids=torch.tensor([row.tokens])).logits[0, -POSITIONS:]
        assert relative_error(logits[:, :VOCAB], expected) < 1e-4
