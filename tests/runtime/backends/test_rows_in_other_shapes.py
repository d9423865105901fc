"""Modules that a base calls with rows as (T, n) or (1, 1, T, n) take adapters as PEFT does; those
that get other rows than the step's, in their order, are refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from lora_runtime import AdapterError, BaseModel, BaseModelError
from lora_runtime.adapters.peft.update import ModuleUpdate
from lora_runtime.modules import ModuleKind

from ...support.device_path import chosen
from ...support.models import SHAPE, VOCAB, make_tokenizer, vary_constants
from ...support.reference import relative_error
from ...support.slow import slow_but
from ...support.updates import (
    POSITIONS,
    Row,
    make_adapter,
    random_adapter,
    run,
    tuned_of,
    updates_of,
)

TOLERANCE = 1e-4
SMALL = SHAPE | {"num_hidden_layers": 2}
MOE = SMALL | {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
MLA = MOE | {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
}
OPT = SMALL | {"ffn_dim": 96, "word_embed_proj_dim": 64, "init_std": 0.25}
BASES: dict[str, tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]] = {
    "deepseek_v2": (MLA, ("kv_b_proj", "o_proj"), ("kv_a_layernorm",)),
    "deepseek_v3": (MLA, ("kv_b_proj", "q_b_proj"), ("q_a_layernorm",)),
    "glm4_moe": (MOE | {"head_dim": 16}, ("q_proj", "o_proj"), ("norm",)),
    "hunyuan_v1_moe": (MOE | {"head_dim": 16}, ("gate.wg", "o_proj"), ("key_layernorm",)),
    "hy_v3": (MOE | {"head_dim": 16}, ("shared_experts.down_proj", "up_proj"), ("q_norm",)),
    "minicpm3": (MLA, ("kv_b_proj", "gate_proj"), ("kv_a_layernorm",)),
    "opt": (OPT, ("fc1", "fc2", "q_proj"), ("final_layer_norm",)),
    "qwen2_moe": (MOE, ("shared_expert_gate", "shared_expert.up_proj"), ("norm",)),
}
"""Fields of the config, and projections and norms to change."""


def _model(kind: str, fields: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**fields)
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    vary_constants(model)
    return model


def _base(model: PreTrainedModel, backend: str = "torch", slots: int = 0) -> BaseModel:
    with chosen("reference"):
        base = BaseModel.of(model, make_tokenizer(), "base", kernels=backend)
    base.open_slots(slots)
    return base


def _tokens(seed: int) -> list[int]:
    return torch.randint(VOCAB, (14,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("kind", slow_but(["deepseek_v3", "hy_v3", "opt"], BASES))
def test_a_mixed_batch_equals_peft(kind: str, backend: str) -> None:
    fields, linears, norms = BASES[kind]
    model = _model(kind, fields)
    kinds: list[dict[str, Any]] = [
        {"r": 4, "target_modules": [*linears]},
        {"r": 2, "target_modules": [*linears], "use_dora": True, "bias": "lora_only"},
        {"r": 2, "target_modules": [linears[-1]], "modules_to_save": [linears[0], *norms]},
        {"r": 2, "target_modules": ["embed_tokens", "lm_head"]},
    ]
    peft = [random_adapter(model, i, **fields) for i, fields in enumerate(kinds)]
    base = _base(_model(kind, fields), backend, slots=len(peft))
    adapters = [make_adapter(base, updates_of(p, model, base.modules)) for p in peft]
    rows = [Row(_tokens(i), [(a, 1.0)]) for i, a in enumerate(adapters)] + [Row(_tokens(9))]
    logits = run(base.make_runner(len(rows) * 2, 16), rows)
    models: list[Any] = [*peft, model]
    for row, wanted, found in zip(rows, models, logits, strict=True):
        with torch.inference_mode():
            expected = wanted(input_ids=torch.tensor([row.tokens])).logits[0, -POSITIONS:]
        assert relative_error(found[:, :VOCAB], expected) < TOLERANCE


Call = Callable[[nn.Linear, torch.Tensor], torch.Tensor]


def _by_expert(linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """Rows that a router would send to each of two experts, of which this is one."""
    y = torch.zeros(*x.shape[:-1], linear.out_features)
    chosen_rows = x[..., 0] > 0
    y[chosen_rows] = linear(x[chosen_rows])
    return y


def _sorted(linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """All rows, in the order of the experts that a router sends them to."""
    order = (x[0, :, :4].argmax(-1)).argsort(stable=True)
    return linear(x[:, order])[:, order.argsort()]


def _in_parts(linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([linear(part) for part in x.split(4, 1)], 1)


def _twice(linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return linear(x) + linear(2 * x)


OTHER_ROWS: dict[str, Call] = {
    "a subset": _by_expert,
    "sorted": _sorted,
    "in parts": _in_parts,
    "backwards": lambda linear, x: linear(x.flip(1)).flip(1),
    "rolled": lambda linear, x: linear(x.roll(1, 1)).roll(-1, 1),
    "with more": lambda linear, x: linear(torch.cat([x, x], 1))[:, : x.shape[1]],
    "batched": lambda linear, x: linear(torch.cat([x, x]))[:1],
    "once in order, once not": lambda linear, x: linear(x) + linear(x.flip(1)).flip(1),
    "by keyword": lambda linear, x: linear(input=x),
    "never": lambda linear, x: x[..., : linear.out_features],
}
SAME_ROWS: dict[str, Call] = {
    "without a batch": lambda linear, x: linear(x[0])[None],
    "a batch of rows": lambda linear, x: linear(x.transpose(0, 1)).transpose(0, 1),
    "more dimensions": lambda linear, x: linear(x[:, None, :, None])[:, 0, :, 0],
    "twice": _twice,
}


def _calling(call: Call) -> PreTrainedModel:
    """A llama that calls the down projection of its second layer so."""
    model = _model("llama", SMALL)
    mlp: Any = model.get_submodule("model.layers.1.mlp")
    mlp.forward = lambda x: call(mlp.down_proj, mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x))
    return model


@pytest.mark.parametrize(
    ("way", "backend"), [*((way, "torch") for way in OTHER_ROWS), ("a subset", "triton")]
)
def test_other_rows_are_refused_by_name(way: str, backend: str) -> None:
    base = _base(_calling(OTHER_ROWS[way]), backend, slots=2)
    peft = random_adapter(_model("llama", SMALL), 1, r=2, target_modules=["down_proj"])
    updates = updates_of(peft, _model("llama", SMALL), base.modules)
    refused = "model.layers.1.mlp.down_proj"
    with pytest.raises(AdapterError, match=f"'{refused}' cannot take an adapter: the base"):
        base.stage_adapter(updates)
    others = {name: update for name, update in updates.items() if name != refused}
    assert len(others) == 1
    base.place_adapter(base.stage_adapter(others))


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("way", SAME_ROWS)
def test_the_same_rows_in_any_shape_are_computed(way: str, backend: str) -> None:
    base = _base(_calling(SAME_ROWS[way]), backend, slots=1)
    peft = random_adapter(_calling(SAME_ROWS[way]), 1, r=2, target_modules=["down_proj"])
    mlp: Any = tuned_of(peft).get_submodule("model.layers.1.mlp")
    mlp.forward = lambda x: SAME_ROWS[way](
        mlp.down_proj, mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)
    )
    adapter = make_adapter(base, updates_of(peft, _model("llama", SMALL), base.modules))
    rows = [Row(_tokens(1)), Row(_tokens(2), [(adapter, 1.0)])]
    logits = run(base.make_runner(4, 16), rows)[1]
    with torch.inference_mode():
        expected = peft(input_ids=torch.tensor([rows[1].tokens])).logits[0, -POSITIONS:]
    assert relative_error(logits[:, :VOCAB], expected) < TOLERANCE


def test_a_norm_of_other_rows_is_refused() -> None:
    model = _model("llama", SMALL)
    layer: Any = model.get_submodule("model.layers.0")
    norm = layer.post_attention_layernorm
    layer.post_attention_layernorm = nn.Sequential(norm)
    layer.post_attention_layernorm.forward = lambda x: norm(x.flip(1)).flip(1)
    base = _base(model)
    names = [n for n, m in base.modules.items() if m.kind is ModuleKind.NORM and m.refusal]
    assert names == ["model.layers.0.post_attention_layernorm.0"]
    with pytest.raises(AdapterError, match=names[0]):
        base.stage_adapter({names[0]: ModuleUpdate(weight=torch.ones(64))})


def test_what_comes_before_the_head_gets_the_rows_that_sample() -> None:
    """Of a head with a transform of its own."""
    base = _base(_model("modernbert-decoder", SMALL))
    refused = {name for name, module in base.modules.items() if module.refusal}
    assert refused == {"lm_head.dense", "lm_head.norm"}


def test_a_module_that_gives_no_rows_is_refused() -> None:
    """As a router that is a linear map, and gives weights and choices."""
    base = _base(_model("phimoe", MOE))
    refused = {name: module.refusal for name, module in base.modules.items() if module.refusal}
    assert refused == {
        f"model.layers.{i}.mlp.router": "takes a tuple from it, not rows" for i in range(2)
    }


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_rows_that_change_later_are_an_error(backend: str) -> None:
    """Where small forwards gave a module all rows, and a step does not."""
    ways: list[Call] = [nn.Linear.__call__]
    base = _base(_calling(lambda linear, x: ways[-1](linear, x)), backend, slots=1)
    peft = random_adapter(_model("llama", SMALL), 1, r=2, target_modules=["down_proj"])
    adapter = make_adapter(base, updates_of(peft, _model("llama", SMALL), base.modules))
    ways.append(_in_parts)
    with pytest.raises(RuntimeError, match=r"layers\.1\.mlp\.down_proj is called with 4 rows"):
        run(base.make_runner(4, 16), [Row(_tokens(1), [(adapter, 1.0)])])


def test_a_base_that_gives_all_logits_is_refused() -> None:
    model = _model("llama", SMALL)
    forward: Any = model.forward
    model.forward = lambda logits_to_keep=0, **given: forward(**given)
    with pytest.raises(BaseModelError, match=r"gives logits \(1, 16, 258\) where those of 2"):
        _base(model)


def test_a_base_that_cannot_run_says_why(tmp_path: Path) -> None:
    """Whatever the model's code raises, with the architecture's name."""
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SMALL), attn_implementation="eager")
    model.get_submodule("model.layers.0.mlp").forward = lambda x: [][1]
    with pytest.raises(BaseModelError, match=r"LlamaForCausalLM cannot be run .*IndexError"):
        _base(model)
