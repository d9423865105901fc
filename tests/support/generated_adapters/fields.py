"""Values of the fields of PEFT's configuration, usual and odd ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

DROP = "(left out)"

LLAMA_TARGETS: tuple[Any, ...] = (
    ["q_proj", "v_proj"],
    ["q_proj", "k_proj", "v_proj", "o_proj"],
    ["gate_proj", "down_proj"],
    ["self_attn.q_proj", "up_proj"],
    ["layers.0.self_attn.q_proj", "layers.1.mlp.up_proj"],
    ["model.layers.1.self_attn.q_proj"],
    r".*\.(q|v)_proj",
    r".*layers\.1\..*_proj",
    "all-linear",
    "ALL-LINEAR",
    ["q_proj", "embed_tokens"],
    ["q_proj", "lm_head"],
    ["embed_tokens", "lm_head"],
    r".*(lm_head|k_proj)",
)
ODD_TARGETS: tuple[Any, ...] = (
    ["q_proj", "query_key_value", "w1"],
    ["v_proj", "norm"],
    ["proj"],
    ["self_attn"],
    [""],
    r"(",
    r"(q_proj|v_proj)",
    [],
)
GPT2_TARGETS: tuple[Any, ...] = (
    ["c_attn"],
    ["c_attn", "c_proj", "c_fc"],
    ["attn.c_proj"],
    r".*h\.1\..*c_\w+",
    "all-linear",
    ["c_attn", "wte"],
    ["c_attn", "lm_head"],
    ["c_attn", "q_proj"],
    ["h.0.attn.c_attn"],
)
SAVED: tuple[Any, ...] = (
    ["norm"],
    ["lm_head"],
    ["embed_tokens"],
    ["embed_tokens", "lm_head"],
    ["input_layernorm", "norm"],
    ["classifier", "score"],
    ["embed_tokens", "score"],
    ["o_proj"],
    ["mlp"],
    ["model.norm"],
    ["self_attn"],
    ["proj"],
    ["embed_tokens", "norm", "lm_head"],
    [],
)
GPT2_SAVED: tuple[Any, ...] = (
    ["ln_f"],
    ["wte"],
    ["lm_head"],
    ["ln_1", "score"],
    ["classifier"],
    ["mlp"],
    ["wpe"],
)
_TOKENS: tuple[Any, ...] = (
    [1, 5],
    [0, 111],
    [7],
    {"embed_tokens": [2, 7]},
    {"embed_tokens": [1, 4], "lm_head": [2]},
    {"embed_tokens": [3, 9], "lm_head": [3, 9]},
    {"lm_head": [3]},
    {"wte": [3]},
    {"nothing": [3]},
    [],
    [2, 2],
    [400],
)
_EXCLUDED: tuple[Any, ...] = (
    ["v_proj"],
    r".*\.0\..*",
    ["model.layers.1.self_attn.q_proj"],
    ["not_there"],
    [],
    ["c_proj"],
)
_RANKS = (
    {"q_proj": 2},
    {"layers.0.self_attn.q_proj": 3},
    {r"^model.*v_proj": 1},
    {"nothing_there": 5},
    {r".*\.1\..*": 6, "q_proj": 2},
    {"c_attn": 5, "h.0": 1},
    {"lm_head": 2, "embed_tokens": 3},
)
_ALPHAS = (
    {"q_proj": 2},
    {"layers.0.self_attn.q_proj": 0.5},
    {"^model.*v_proj": 0},
    {"c_attn": 1},
    {"nothing_there": 5},
)
_STARTS = (False, "gaussian", "orthogonal", "eva", "mica", "pissa", "olora", "pissa_niter_4", None)
FIELDS: Mapping[str, Sequence[Any]] = {
    "r": (1, 2, 3, 7, 16, 40),
    "lora_alpha": (0, 1, 2.5, 8, 16, -3, 32),
    "exclude_modules": _EXCLUDED,
    "layers_to_transform": (0, [1], [0, 1], [5], []),
    "layers_pattern": ("layers", ["layers"], "h", "nope"),
    "rank_pattern": _RANKS,
    "alpha_pattern": _ALPHAS,
    "use_rslora": (True,),
    "use_dora": (True,),
    "bias": ("all", "lora_only"),
    "lora_bias": (True,),
    "ensure_weight_tying": (True,),
    "trainable_token_indices": _TOKENS,
    "init_lora_weights": _STARTS,
    "task_type": (None, "FEATURE_EXTRACTION", "SEQ_CLS", "SEQ_2_SEQ_LM", "TOKEN_CLS"),
    "fan_in_fan_out": (True, False),
    "lora_dropout": (0.1,),
}
CONFIG_FIELDS: Mapping[str, Sequence[Any]] = {
    # Provenance and run metadata of writers.
    "metadata": ({"git_sha": "0000000"}, {}),
    "lorap_emb_lr": (1e-6, 0, None),
    "some_new_flag": (False, True, [], "x"),
    "unsloth_fixed": (True,),
    "loraplus_lr_ratio": (16.0,),
    "enable_lora": (None, [True]),
    "merge_weights": (False, True),
    # Names that match nothing.
    "target_modules": (
        ["q_proj", "v_proj", "query_key_value"],
        ["q_proj"],
        "all-linear",
        DROP,
        None,
    ),
    "modules_to_save": (["classifier", "score"], [], None, "lm_head"),
    # What other versions and hands write.
    "peft_version": ("0.5.0", DROP, "0.99.0.dev0@abc"),
    "r": (3, 0, -1, "8", 8.0, True, DROP),
    "lora_alpha": ("16", None, True, 1e400, DROP, 7),
    "use_rslora": (None, "true", 1, DROP, True),
    "use_dora": (True, DROP, None),
    "bias": ("None", None, DROP, "all"),
    "fan_in_fan_out": (None, DROP, True),
    "rank_pattern": (None, DROP, {"q_proj": 3}),
    "alpha_pattern": (None, DROP, {"v_proj": 0}),
    "inference_mode": (False, DROP),
    "auto_mapping": ({"base_model_class": "LlamaModel", "parent_library": "transformers"}, DROP),
    "base_model_name_or_path": (None, "", "somebody/else", DROP),
    "revision": ("main", None, DROP),
    "layer_replication": ([[0, 2], [1, 2]], []),
    "layers_pattern": ("layers", ["layers"], "h", "nope", ""),
    "layers_to_transform": (0, [1], "0", [-1], DROP),
    "exclude_modules": (["up_proj"], "", None),
    "loftq_config": ({}, {"loftq_bits": 4}, None),
    "megatron_config": ({"a": 1}, None),
    "target_parameters": (["mlp.experts.gate_up_proj"], []),
    "trainable_token_indices": ([4], None, {}),
    "lora_bias": (True, None),
    "task_type": ("CAUSAL_LM", "SEQ_CLS", "causal_lm", None, DROP, "FEATURE_EXTRACTION"),
    "peft_type": ("LORA", "lora", "IA3", DROP, None),
    "init_lora_weights": ("pissa", "eva", "loftq", "something"),
    "corda_config": (None, {"cache_file": "x"}),
    "alora_invocation_tokens": (None, []),
    "ensure_weight_tying": (True, None),
    "use_qalora": (False, True),
    "qalora_group_size": (16, DROP),
    "runtime_config": ({"ephemeral_gpu_offload": False},),
}
