"""Tiny random models of every causal architecture, from its own configuration made small."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig

VOCAB = 258
MAX_PARAMETERS = 5_000_000
_TOKENS = 24

_SIZES: tuple[tuple[str, int], ...] = (
    (r".*codebook_size", 256),
    (r".*vocab_size.*|.*_vocab", VOCAB),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len|context_length|.*max_length", 512),
    (r"max_target_positions|max_source_positions|original_max_position_embeddings", 512),
    (r"sliding_window(_size)?|attention_window_size|local_attention|window_size", 12),
    (r"attention_chunk_size", 128),
    (r".*chunk_size|.*chunk_length|block_size|block_multiple_of", 16),
    (r"rotary_dim|qk_rope_head_dim|qk_nope_head_dim", 8),
    (r".*lora_rank|.*_rank|.*lowrank", 16),
    (
        r"(.*_)?(head_dim|head_size|d_head|headdim|d_kv|kv_channels)|dim_head|query_pre_attn_scalar",
        16,
    ),
    (r".*(key_value_heads|kv_heads|query_groups)", 2),
    (r"(.*_)?(num_heads|n_heads?|attention_heads|mamba_heads|(key|value)_heads)", 4),
    (
        r"(num_)?(hidden_|encoder_|decoder_|n_)?layers?|n_layers?|depth|num_blocks|.*hidden_layers",
        2,
    ),
    (r".*experts_per_tok(en)?|.*top_?k|moe_k", 2),
    (r"topk_group|n_group|num_expert_group|n_groups|n_shared_experts", 1),
    (r"(n_|num_|moe_num_).*experts|moe_num_experts|zero_expert_num", 4),
    (r"moe_intermediate_size|.*expert.*_size", 32),
    (r".*(intermediate|ffn_hidden|feed_forward|ffn)_?(size|dim)(_.*)?|d_ff|dff|dim_ff|n_inner", 96),
    (r"(.*_)?(hidden_size|embed_dim|embedding_size|embedding_dim)(_.*)?", 64),
    (r"d_model|n_embd|emb_dim|word_embed_proj_dim|lru_width|dim_model_base|(.*_)?hidden_dim", 64),
)
"""Sizes by names of fields: the first that a name matches."""

_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
_MORE: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 8},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {"sliding_attention": _ROPE, "full_attention": _ROPE},
    },
    "dbrx": {"attn_config": {"rope_theta": 10_000.0, "kv_n_heads": 2, "clip_qkv": 8}},
    "deepseek_v2": {"head_dim": 8, "num_experts_per_tok": 2},
    "dory": {
        "num_hidden_layers": 3,
        "n_input_layers": 1,
        "n_recurrent_layers": 1,
        "n_output_layers": 1,
        "layer_types": None,
    },
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_d_head": 16},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "granitemoehybrid": {"mamba_n_heads": 8},
    "hrm_text": {"num_layers_per_stack": None, "initializer_range": 0.02},  # which it sets itself
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "ministral": {"head_dim": 16},
    "nemotron": {"head_dim": 16, "num_key_value_heads": 2},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_hidden_size": 128,
    },
    "zamba2": {"n_mamba_heads": 8, "mamba_ngroups": 1, "attention_hidden_size": 128},
}
"""Fields of single kinds, whose own rules the sizes above break."""


class UnbuildableError(Exception):
    """Error for an architecture of which no tiny model could be made; `config` is of one, if any."""

    config: PretrainedConfig | None = None


def tiny_model(kind: str, **more: Any) -> Any:
    """Make a tiny model, with `more` fields in its configuration.

    Raises UnbuildableError with the first reason.
    """
    reasons: list[Exception] = []
    first = None
    for config in _candidates(kind, more, reasons):
        first = first or config
        try:
            return _model(config)
        except Exception as error:
            reasons.append(error)
    failure = UnbuildableError(f"{type(reasons[0]).__name__}: {reasons[0]}")
    failure.config = first
    raise failure


def fields_of(kind: str) -> dict[str, Any]:
    """Fields of a configuration as it comes, {} where it cannot be made without any."""
    try:
        return CONFIG_MAPPING[kind]().to_dict()
    except Exception:
        return {}


def _candidates(
    kind: str, more: dict[str, Any], reasons: list[Exception]
) -> Iterator[PretrainedConfig]:
    given = fields_of(kind) or {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": VOCAB}
    more = _MORE.get(kind, {}) | more
    for layers, heads in ((True, 2), (True, 4), (False, 2), (False, 4)):
        try:
            yield CONFIG_MAPPING[kind](**(_small(given, layers, heads) | more))
        except Exception as error:
            reasons.append(error)


def _small(given: dict[str, Any], keep_layers: bool, kv_heads: int) -> dict[str, Any]:
    """Fields that make a configuration small. `keep_layers`: one layer of each kind that it has."""
    small: dict[str, Any] = {n: 0.25 for n in ("initializer_range", "init_std") if n in given}
    for name, value in given.items():
        if name.endswith("config") and isinstance(value, dict) and name != "per_layer_config":
            small[name] = _small(value, keep_layers, kv_heads) | _kind_of(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            size = _size(name, value)
            if size == 2 and re.fullmatch(r".*(key_value_heads|kv_heads|query_groups)", name):
                size = min(kv_heads, value)
            if size is not None:
                small[name] = size
    if "qk_rope_head_dim" in small and "head_dim" in small:
        small["head_dim"] = small["qk_rope_head_dim"]  # what positions rotate
    if keep_layers:
        small |= _layers(given)
    return small


def _kind_of(given: dict[str, Any]) -> dict[str, Any]:
    return {"model_type": given["model_type"]} if given.get("model_type") else {}


def _size(name: str, value: int) -> int | None:
    if re.fullmatch(r".*token_(id|index)", name):
        return None if value < VOCAB else VOCAB - 2
    for pattern, size in _SIZES:
        if re.fullmatch(pattern, name):
            return min(size, value) if value > 0 else None
    return None


def _layers(given: dict[str, Any]) -> dict[str, Any]:
    """Cut lists of a value by layer so that each combination of values is there once."""
    count = next(
        (given[n] for n in ("num_hidden_layers", "n_layer", "num_layers") if n in given), 0
    )
    lists = {
        n: v for n, v in given.items() if isinstance(v, list) and len(v) == count and count > 2
    }
    if not lists:
        return {}
    seen: dict[str, int] = {}
    for i in range(count):
        seen.setdefault(repr([v[i] for v in lists.values()]), i)
    chosen = sorted(seen.values())[:4]
    chosen += [i for i in range(count) if i not in chosen][: max(0, 2 - len(chosen))]
    return {"num_hidden_layers": len(chosen)} | {
        n: [_element(n, v[i]) for i in sorted(chosen)] for n, v in lists.items()
    }


def _element(name: str, value: Any) -> Any:
    size = _size(name, value) if isinstance(value, int) and not isinstance(value, bool) else None
    return value if size is None else size


@torch.no_grad()
def _model(config: PretrainedConfig) -> Any:
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > MAX_PARAMETERS:
        raise UnbuildableError(f"{size:.1e} parameters at the smallest")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    for parameter in model.parameters():  # biases and norms start at constants: make them matter
        if parameter.ndim == 1 and parameter.is_floating_point():
            parameter.add_(0.1 * torch.randn_like(parameter))
    tokens = torch.arange(_TOKENS)[None] * 7 % VOCAB
    model(input_ids=tokens, use_cache=False)  # what transformers itself cannot run is no base
    model.tiny_config = config  # a model of text alone has but the part of it
    return model
