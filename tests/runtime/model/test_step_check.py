"""A base is served only if steps give what transformers' own forward gives; what differs is refused,
with the layer where the difference begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.mistral import modeling_mistral

from lora_runtime import (
    BaseModel,
    BaseModelError,
    Engine,
    EngineConfig,
    InvalidRequestError,
    Request,
)

from ...support.broken import LAYER, OTHER_ATTENTION, OTHER_ROWS, break_attention, break_rows
from ...support.models import SHAPE, make_tokenizer, save_base
from ...support.slow import slow_but
from ...support.versions import need

SMALL = SHAPE | {"num_hidden_layers": 2, "head_dim": 16}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "electra": {},
    "camembert": {},
    "xlm-roberta": {},
    "xlm-roberta-xl": {},
    "data2vec-text": {},
    "ernie": {},
    "roberta-prelayernorm": {},
    "roc_bert": {},
    "bert-generation": {},
    "xmod": {"default_language": "en_XX"},
}
FROM_LAYER = rf"steps differ .* from layer 'model\.layers\.{LAYER}' on: not supported"


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("models") / "mistral", "mistral")


def load(base: Path, kernels: str) -> BaseModel:
    return BaseModel.load(base, device="cpu", dtype="float32", kernels=kernels)


def model_of(kind: str, /, dtype: torch.dtype = torch.float32, **fields: Any) -> Any:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**(SMALL | fields))
    return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")


def served(model: Any, kernels: str = "torch") -> BaseModel:
    return BaseModel.of(model, make_tokenizer(), "base", kernels=kernels)


@pytest.mark.parametrize("kernels", ["torch", "auto"])
@pytest.mark.parametrize("how", OTHER_ATTENTION)
def test_other_attention_is_refused(
    mistral: Path, how: str, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the torch backend, and by it after the C++ program."""
    load(mistral, kernels)
    break_attention(monkeypatch, how)
    with pytest.raises(BaseModelError, match=FROM_LAYER):
        load(mistral, kernels)


@pytest.mark.parametrize("kernels", ["torch", "auto"])
@pytest.mark.parametrize("how", OTHER_ROWS)
def test_rows_that_depend_on_a_step_are_refused(how: str, kernels: str) -> None:
    """Of a model in memory too, which the C++ backend would use up."""
    served(model_of("llama"), kernels)
    with pytest.raises(BaseModelError, match=FROM_LAYER):
        served(break_rows(model_of("llama"), how), kernels)


def test_triton_kernels_are_held_to_it(mistral: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_attention(monkeypatch, "scaled")
    with pytest.raises(BaseModelError, match=FROM_LAYER):
        load(mistral, "triton")


@pytest.mark.slow
def test_tensor_parallel_is_held_to_it(mistral: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_attention(monkeypatch, "scaled")  # in this process
    with pytest.raises(BaseModelError, match=FROM_LAYER):
        BaseModel.load(mistral, device="cpu", dtype="float32", tensor_parallel=2)


@pytest.mark.parametrize("kind", slow_but(["bert", "roberta", "electra"], ENCODERS))
def test_encoders_are_refused(kind: str) -> None:
    with pytest.raises(BaseModelError, match=r"steps differ from transformers' own forward"):
        served(model_of(kind, **ENCODERS[kind]))


def test_a_causal_one_of_them_is_served() -> None:
    served(model_of("bert", is_decoder=True))


def test_a_cache_that_loops_share_is_refused() -> None:
    """Steps keep what each pass through a layer has seen; where all read the last one's, the first
    decode row differs."""
    need("transformers", 5, 24, "dory")
    fields: dict[str, Any] = {"num_hidden_layers": 3, "n_input_layers": 1, "n_output_layers": 1}
    served(model_of("dory", **fields))
    with pytest.raises(BaseModelError, match=r"in decode rows, from layer 'model\.layers\.1' on"):
        served(model_of("dory", **fields, recurrent_kv_cache_mode="last_loop"))


def test_arguments_that_change_values_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, whatever they are now."""
    own = modeling_mistral.MistralAttention.forward

    def forward(self: Any, *args: Any, **given: Any) -> Any:
        return own(self, *args, position_bias=torch.zeros(1), **given)

    monkeypatch.setattr(modeling_mistral.MistralAttention, "forward", forward)
    with pytest.raises(BaseModelError, match=r"needs \['position_bias'\]: not supported"):
        served(model_of("mistral"))


def test_attention_sinks_are_served_by_kernels_that_take_them() -> None:
    """Those of CPUs: torch's, as the C++ program has none."""
    model = model_of("gpt_oss", num_local_experts=4)
    assert served(model, "auto").kernel_names["paged_attention"] == "torch/cpu"
    with pytest.raises(BaseModelError, match="GptOssForCausalLM has attention sinks: use kernels"):
        served(model, "triton")


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("phimoe", {"num_local_experts": 2}),
        ("qwen2_moe", {"num_experts": 4, "use_sliding_window": True}),
    ],
)
def test_a_window_that_attention_is_not_told_of_ends_the_context(
    kind: str, fields: dict[str, Any]
) -> None:
    """Transformers' masks have it, its calls of attention do not."""
    fields |= {"sliding_window": 300, "initializer_range": 0.2}
    base = served(model_of(kind, **fields))
    assert base.max_context == 300
    with (
        Engine(base, EngineConfig(kv_cache_bytes=1 << 20)) as engine,
        pytest.raises(InvalidRequestError, match=r"of the base's 512, whose masks hide"),
    ):
        engine.generate(Request(token_ids=(5,) * 300))


def test_a_scale_by_rows_of_a_step_is_off_within_the_context() -> None:
    """Llama 4 takes them for positions: other sequences' rows would count."""
    fields: dict[str, Any] = {"num_local_experts": 2, "no_rope_layers": [1, 0], "attn_scale": 5.0}
    model = model_of("llama4_text", **fields, floor_scale=9, initializer_range=0.2)
    with torch.inference_mode():
        wanted = model(input_ids=torch.full((1, 8), 5), use_cache=False).logits
    base = served(model)
    assert base.max_context == 8
    with torch.inference_mode():
        rows = model(input_ids=torch.full((1, 8), 5), use_cache=False).logits
    torch.testing.assert_close(rows, wanted)
    with pytest.raises(BaseModelError, match="attn_temperature_tuning"):
        served(model_of("llama4_text", **fields, floor_scale=1))


def test_logits_that_a_base_masks_are_no_difference() -> None:
    model = model_of("llama")
    own = model.lm_head.forward

    def masked(x: torch.Tensor) -> torch.Tensor:
        return own(x).index_fill(-1, torch.tensor([3]), -torch.inf)

    model.lm_head.forward = masked
    served(model)
    model.lm_head.weight.data[4] = torch.nan
    with pytest.raises(BaseModelError, match=r"by inf .* behind the last layer"):
        served(model)


def test_a_model_is_served_again() -> None:
    """Whose attention is loramux's by then."""
    model = model_of("gemma2", attn_logit_softcapping=5.0)
    served(model)
    served(model)


def test_rounding_is_no_difference() -> None:
    """In 16 bits single rows go to other experts."""
    fields = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    served(
        model_of(
            "glm4_moe", torch.bfloat16, **fields, moe_intermediate_size=32, first_k_dense_replace=1
        )
    )


@pytest.mark.parametrize("most", [2, 5, 12])
def test_a_short_context_is_checked(most: int) -> None:
    served(model_of("llama", max_position_embeddings=most))
    with pytest.raises(BaseModelError, match="steps differ"):
        served(break_rows(model_of("llama", max_position_embeddings=most), "mixes rows"))


def test_what_the_models_code_raises_is_a_refusal(tmp_path: Path) -> None:
    model = model_of("llama")
    model.generation_config = None
    with pytest.raises(BaseModelError, match=r"LlamaForCausalLM cannot be run .* AttributeError"):
        served(model)
    (tmp_path / "config.json").write_text('{"model_type": "llama", "num_attention_heads": 0}')
    with pytest.raises(BaseModelError, match=r"cannot be loaded: ZeroDivisionError: "):
        load(tmp_path, "torch")


def test_a_context_that_rope_scaling_shortens_is_explained(tmp_path: Path) -> None:
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    rope = {"rope_type": "longrope", "factor": 8.0, "rope_theta": 10000.0} | factors
    fields: dict[str, Any] = {"original_max_position_embeddings": 64}
    model = model_of("phi3", rope_parameters=rope | fields, **fields)
    why = r"\(of the base's 512, whose rope scaling \(longrope\) changes the angles"
    with Engine(served(model), EngineConfig(kv_cache_bytes=1 << 20)) as engine:
        assert engine.max_context == 64
        for prompt in ({"token_ids": (5,) * 64}, {"prompt": "x" * 64}, {"prompt": "x" * 9999}):
            with pytest.raises(InvalidRequestError, match=why):
                engine.generate(Request(**prompt))
    with Engine(served(model), EngineConfig(kv_cache_bytes=1 << 20, max_context=32)) as engine:
        with pytest.raises(InvalidRequestError) as refused:
            engine.generate(Request(token_ids=(5,) * 64))
        assert "rope" not in str(refused.value)


def test_models_of_float64_are_served() -> None:
    assert served(model_of("llama", torch.float64)).dtype == torch.float64
