"""What of an architecture is looked at before it runs, and what is not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from lora_runtime import BaseModel, BaseModelError
from lora_runtime.model.hooks import embedding_scale
from lora_runtime.model.loading import check_architecture

from ...support.models import SHAPE, make_tokenizer


def test_a_base_is_judged_by_how_it_runs_and_not_by_what_its_class_says() -> None:
    config = LlamaConfig(**SHAPE | {"num_hidden_layers": 1})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model._supports_attention_backend = False  # as StableLM and BioGPT have it
    base = BaseModel.of(model, make_tokenizer(), "base", kernels="torch", device="cpu")
    assert len(base.kv_shapes) == 1


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "does not say max_position_embeddings"),
        ({"max_position_embeddings": None}, "does not say max_position_embeddings"),
        ({"is_encoder_decoder": True, "max_position_embeddings": 64}, "has an encoder"),
        (
            {"layer_types": ["linear_attention"], "max_position_embeddings": 64},
            r"has layers of type \['linear_attention'\]",
        ),
    ],
)
def test_a_configuration_that_says_too_little_or_too_much(fields: dict, why: str) -> None:
    with pytest.raises(BaseModelError, match=f"Linear {why}"):
        check_architecture(nn.Linear(1, 1), SimpleNamespace(**fields))


def test_chunked_attention_is_served_up_to_a_chunk() -> None:
    """Rows see all others up to there, as Llama 4's do to 8,192 tokens."""
    config = SimpleNamespace(
        layer_types=["chunked_attention", "full_attention"],
        attention_chunk_size=32,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default"},
    )
    assert check_architecture(nn.Linear(1, 1), config) == (
        32,
        "of the base's 64, whose layers of chunked_attention do not see beyond",
    )
    config.layer_types = ["full_attention"]
    assert check_architecture(nn.Linear(1, 1), config) == (64, "")


@pytest.mark.parametrize("scale", [8.0, torch.tensor(8.0), None])
def test_embeddings_are_scaled_by_tensors_and_by_numbers(scale: object) -> None:
    embedding = nn.Embedding(2, 3)
    embedding.embed_scale = scale  # type: ignore[assignment]
    assert embedding_scale(embedding) == (1.0 if scale is None else 8.0)
