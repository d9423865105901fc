"""Writes a small random Llama and LoRAs of it, in a second: a pod that makes its own models needs
no volume.

    python models.py FOLDER              # FOLDER/base and FOLDER/adapters/support
    python models.py FOLDER NAME...      # adapters of these names, each with numbers of its own
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

VOCAB, HIDDEN, INNER, LAYERS, HEADS, RANK = 258, 256, 512, 8, 8, 8
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, HIDDEN),
    "self_attn.v_proj": (HIDDEN, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "tie_word_embeddings": False,
    "dtype": "float32",
}


def main() -> None:
    folder = Path(sys.argv[1])
    save_base(folder / "base")
    for seed, name in enumerate(sys.argv[2:] or ["support"], 1):
        save_adapter(folder / "adapters" / name, seed)


def save_base(folder: Path) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    tensors = {
        f"model.layers.{layer}.{name}.weight": noise(random, shape)
        for layer in range(LAYERS)
        for name, shape in SHAPES.items()
    }
    for name in ("model.embed_tokens", "lm_head"):
        tensors[f"{name}.weight"] = noise(random, (VOCAB, HIDDEN))
    norms = [
        f"layers.{i}.{n}_layernorm" for i in range(LAYERS) for n in ("input", "post_attention")
    ]
    for name in ["norm", *norms]:
        tensors[f"model.{name}.weight"] = np.ones(HIDDEN, np.float32)
    weights = folder / "model.safetensors"
    save_file(tensors, weights, {"format": "pt"})
    weights.chmod(int(os.environ.get("WEIGHTS_MODE", "0644"), 8))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_tokenizer(folder)


def save_tokenizer(folder: Path) -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {letter: i for i, letter in enumerate(letters)} | {"<s>": 256, "</s>": 257}
    tokenizer = Tokenizer(models.BPE(ids, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
        )
    )


def save_adapter(folder: Path, seed: int = 1) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(LAYERS):
        for name, (outer, inner) in SHAPES.items():
            path = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{path}.lora_A.weight"] = noise(random, (RANK, inner))
            tensors[f"{path}.lora_B.weight"] = noise(random, (outer, RANK))
    weights = folder / "adapter_model.safetensors"
    save_file(tensors, weights)
    weights.chmod(0o644)  # safetensors writes 0600
    names = [name.partition(".")[2] for name in SHAPES]
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"target_modules": names}))


def noise(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return (random.standard_normal(shape) / shape[1] ** 0.5).astype(np.float32)


if __name__ == "__main__":
    main()
