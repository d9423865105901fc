"""Every kind of change that PEFT makes to a base, mixed in one batch, equals PEFT's model alone on both paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM

from lora_runtime import AdapterError, BaseModel
from lora_runtime.adapters.update import ModuleKind, ModuleUpdate
from lora_runtime.model.runner import make_runner

from ..support.models import VOCAB, save_base
from ..support.reference import relative_error
from ..support.updates import POSITIONS, Row, composed, make_adapter, random_adapter, run, updates_of

TOLERANCE = 1e-4
KERNELS = ("auto", "torch")
ADDED = 3


@dataclass(frozen=True)
class Names:
    """Of an architecture's modules: two linears of the attention, one of the MLP, embedding and norms."""

    attention: tuple[str, str] = ("q_proj", "o_proj")
    mlp: str = "down_proj"
    embedding: str = "embed_tokens"
    norms: tuple[str, ...] = ("input_layernorm", "norm")


NAMES = {
    "llama": Names(),
    "qwen3": Names(norms=("post_attention_layernorm", "norm", "q_norm", "k_norm")),
    "gemma3": Names(norms=("post_feedforward_layernorm", "norm", "q_norm", "k_norm")),
    "gemma2": Names(mlp="gate_proj"),
    "phi3": Names(("qkv_proj", "o_proj"), "gate_up_proj"),
    "gpt2": Names(("c_attn", "attn.c_proj"), "mlp.c_proj", "wte", ("ln_1", "ln_f")),
}

KINDS: dict[str, Callable[[Names], dict[str, Any]]] = {
    "lora": lambda n: {"r": 5, "target_modules": "all-linear"},
    "dora": lambda n: {"r": 4, "use_dora": True, "target_modules": "all-linear"},
    "rslora, all biases": lambda n: {"use_rslora": True, "bias": "all", "target_modules": [n.mlp]},
    "biases of targets": lambda n: {"r": 3, "bias": "lora_only", "target_modules": [*n.attention]},
    "lora_bias": lambda n: {"r": 2, "lora_bias": True, "lora_alpha": 5, "target_modules": [n.attention[1], n.mlp]},
    "saved lm_head": lambda n: {"target_modules": [n.mlp], "modules_to_save": ["lm_head"]},
    "saved embedding": lambda n: {"target_modules": [n.mlp], "modules_to_save": [n.embedding]},
    "saved norms": lambda n: {"target_modules": [n.mlp], "modules_to_save": list(n.norms)},
    "saved linears": lambda n: {"target_modules": [n.attention[0]], "modules_to_save": [n.mlp, n.attention[1]]},
    "lora on embeddings": lambda n: {"r": 6, "target_modules": [n.embedding, "lm_head", n.mlp]},
    "dora on embeddings": lambda n: {"r": 3, "use_dora": True, "target_modules": [n.embedding, "lm_head"]},
    "tokens": lambda n: {"target_modules": [n.mlp], "trainable_token_indices": [70, 3, 200]},
}
COMPOSED = [("dora", 0.7), ("saved linears", -0.4), ("dora on embeddings", 0.5), ("saved norms", 0.6),
            ("saved lm_head", 0.3), ("tokens", 1.2)]


@dataclass
class Case:
    """A tiny base in transformers, the same with both kinds of kernels, and PEFT's models on it."""

    model: nn.Module
    bases: dict[str, BaseModel]
    peft: dict[str, PeftModel]
    adapters: dict[str, dict[str, Any]]
    """Kernels → kind → placed."""

    def updates(self, kind: str) -> dict[str, ModuleUpdate]:
        return updates_of(self.peft[kind], self.model, self.bases["auto"].modules)


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    base_dir = save_base(tmp_path_factory.mktemp(request.param) / "base", request.param)
    model = _reference(base_dir)
    bases = {k: BaseModel.load(base_dir, dtype="float32", kernels=k) for k in KERNELS}
    assert bases["auto"].program is not None
    conv1d = {"fan_in_fan_out": True} if request.param == "gpt2" else {}
    names = NAMES[request.param]
    peft = {kind: random_adapter(model, i, **make(names), **conv1d) for i, (kind, make) in enumerate(KINDS.items())}
    found = Case(model, bases, peft, {})
    for key, base in bases.items():
        found.adapters[key] = {kind: make_adapter(base, found.updates(kind)) for kind in KINDS}
    return found


def _reference(base_dir: Path) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32, attn_implementation="eager").eval()


def _tokens(seed: int, vocab: int = VOCAB) -> list[int]:
    return [3, *torch.randint(vocab, (12 + seed % 4,), generator=torch.Generator().manual_seed(seed)).tolist(), 70]


@torch.inference_mode()
def _expected(model: nn.Module, tokens: list[int]) -> torch.Tensor:
    return model(input_ids=torch.tensor([tokens])).logits[0, -POSITIONS:]


def _check(logits: torch.Tensor, expected: torch.Tensor, what: object) -> None:
    width = expected.shape[1]
    assert relative_error(logits[:, :width], expected) < TOLERANCE, what
    assert (logits[:, width:] == -torch.inf).all(), what


@pytest.mark.parametrize("kernels", KERNELS)
def test_mixed_batch_equals_peft_alone(case: Case, kernels: str) -> None:
    base, adapters = case.bases[kernels], case.adapters[kernels]
    weights = {kind: 1.0 for kind in KINDS}
    rows = {"base": Row(_tokens(100)), "base too": Row(_tokens(101))}
    rows |= {kind: Row(_tokens(i), [(adapters[kind], weights[kind])]) for i, kind in enumerate(KINDS)}
    order = ["base", *list(KINDS)[:6], "base too", *list(KINDS)[6:]]
    logits = dict(zip(order, run(_runner(base), [rows[key] for key in order]), strict=True))
    for key in order:
        _check(logits[key], _expected(case.peft.get(key, case.model), rows[key].tokens), key)


@pytest.mark.parametrize("kernels", KERNELS)
def test_compositions_equal_their_definition(case: Case, kernels: str) -> None:
    base, adapters = case.bases[kernels], case.adapters[kernels]
    kinds = [COMPOSED[:2], COMPOSED[1:4], COMPOSED, [("saved lm_head", 0.5), ("saved embedding", 0.5)],
             [("lora", 0.8), ("lora on embeddings", -0.5)], [("dora", 0.3)], [("saved lm_head", 2.0)]]
    rows = [Row(_tokens(i), [(adapters[kind], weight) for kind, weight in kind_weights])
            for i, kind_weights in enumerate(kinds)]
    for row, kind_weights, logits in zip(rows, kinds, run(_runner(base), rows), strict=True):
        model = composed(case.model, base.modules, [(case.peft[kind], weight) for kind, weight in kind_weights])
        _check(logits, _expected(model, row.tokens), kind_weights)


def _runner(base: BaseModel) -> Any:
    return make_runner(base, 64, 16)
