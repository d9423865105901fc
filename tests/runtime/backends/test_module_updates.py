"""Every kind of change that PEFT makes to a base, mixed in one batch, equals PEFT's model alone in
every backend."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from lora_runtime import AdapterError, BaseModel
from lora_runtime.adapters.peft.update import ModuleUpdate
from lora_runtime.modules import ModuleKind

from ...support.backends import program_of
from ...support.device import PATHS
from ...support.models import VOCAB, save_base
from ...support.reference import relative_error
from ...support.slow import slow_but
from ...support.updates import (
    POSITIONS,
    Row,
    composed,
    make_adapter,
    random_adapter,
    run,
    updates_of,
)

TOLERANCE = 1e-4
SLOTS = 24
"""For the adapters of all tests of a base."""
ADDED = 3


@dataclass(frozen=True)
class Names:
    """Of an architecture's modules: two linears of the attention, one of the MLP, embedding and
    norms."""

    attention: tuple[str, str] = ("q_proj", "o_proj")
    mlp: str = "down_proj"
    embedding: str = "embed_tokens"
    norms: tuple[str, ...] = ("input_layernorm", "norm")


NAMES = {
    "llama": Names(),
    "qwen2": Names(),
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
    "lora_bias": lambda n: {
        "r": 2,
        "lora_bias": True,
        "lora_alpha": 5,
        "target_modules": [n.attention[1], n.mlp],
    },
    "saved lm_head": lambda n: {"target_modules": [n.mlp], "modules_to_save": ["lm_head"]},
    "saved embedding": lambda n: {"target_modules": [n.mlp], "modules_to_save": [n.embedding]},
    "saved norms": lambda n: {"target_modules": [n.mlp], "modules_to_save": list(n.norms)},
    "saved linears": lambda n: {
        "target_modules": [n.attention[0]],
        "modules_to_save": [n.mlp, n.attention[1]],
    },
    "lora on embeddings": lambda n: {"r": 6, "target_modules": [n.embedding, "lm_head", n.mlp]},
    "dora on embeddings": lambda n: {
        "r": 3,
        "use_dora": True,
        "target_modules": [n.embedding, "lm_head"],
    },
    "tokens": lambda n: {"target_modules": [n.mlp], "trainable_token_indices": [70, 3, 200]},
}
COMPOSED = [
    ("dora", 0.7),
    ("saved linears", -0.4),
    ("dora on embeddings", 0.5),
    ("saved norms", 0.6),
    ("saved lm_head", 0.3),
    ("tokens", 1.2),
]


@dataclass
class Case:
    """A tiny base in transformers, the same in every backend, and PEFT's models on it."""

    model: PreTrainedModel
    bases: dict[str, BaseModel]
    peft: dict[str, PeftModel]
    adapters: dict[str, dict[str, Any]]
    """Key of PATHS → kind → placed."""

    def updates(self, kind: str) -> dict[str, Any]:
        """ModuleUpdates by module, with the tensors that the kind has."""
        return updates_of(self.peft[kind], self.model, self.bases["cpp"].modules)


@pytest.fixture(scope="module", params=slow_but(["llama", "gpt2"], NAMES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    base_dir = save_base(tmp_path_factory.mktemp(request.param) / "base", request.param)
    model = _reference(base_dir)
    bases = {k: BaseModel.load(base_dir, dtype="float32", **how) for k, how in PATHS.items()}
    assert program_of(bases["cpp"]) is not None
    for base in bases.values():
        base.open_slots(SLOTS)
    conv1d = _conv1d(model)
    names = NAMES[request.param]
    peft = {
        kind: random_adapter(model, i, **make(names), **conv1d)
        for i, (kind, make) in enumerate(KINDS.items())
    }
    found = Case(model, bases, peft, {})
    for key, base in bases.items():
        found.adapters[key] = {kind: make_adapter(base, found.updates(kind)) for kind in KINDS}
    return found


def _reference(base_dir: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(
        base_dir, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def _tokens(seed: int, vocab: int = VOCAB) -> list[int]:
    return [
        3,
        *torch.randint(
            vocab, (12 + seed % 4,), generator=torch.Generator().manual_seed(seed)
        ).tolist(),
        70,
    ]


@torch.inference_mode()
def _expected(model: nn.Module, tokens: list[int]) -> torch.Tensor:
    return model(input_ids=torch.tensor([tokens])).logits[0, -POSITIONS:]


def _check(logits: torch.Tensor, expected: torch.Tensor, what: object) -> None:
    width = expected.shape[1]
    assert relative_error(logits[:, :width], expected) < TOLERANCE, what
    assert (logits[:, width:] == -torch.inf).all(), what


@pytest.mark.parametrize("kernels", PATHS)
def test_mixed_batch_equals_peft_alone(case: Case, kernels: str) -> None:
    base, adapters = case.bases[kernels], case.adapters[kernels]
    rows = {"base": Row(_tokens(100)), "base too": Row(_tokens(101))}
    rows |= {kind: Row(_tokens(i), [(adapters[kind], 1.0)]) for i, kind in enumerate(KINDS)}
    order = ["base", *list(KINDS)[:6], "base too", *list(KINDS)[6:]]
    logits = dict(zip(order, run(_runner(base), [rows[key] for key in order]), strict=True))
    for key in order:
        _check(logits[key], _expected(case.peft.get(key, case.model), rows[key].tokens), key)


@pytest.mark.parametrize("kernels", PATHS)
def test_compositions_equal_their_definition(case: Case, kernels: str) -> None:
    base, adapters = case.bases[kernels], case.adapters[kernels]
    kinds = [
        COMPOSED[:2],
        COMPOSED[1:4],
        COMPOSED,
        [("saved lm_head", 0.5), ("saved embedding", 0.5)],
        [("lora", 0.8), ("lora on embeddings", -0.5)],
        [("dora", 0.3)],
        [("saved lm_head", 2.0)],
    ]
    rows = [
        Row(_tokens(i), [(adapters[kind], weight) for kind, weight in kind_weights])
        for i, kind_weights in enumerate(kinds)
    ]
    for row, kind_weights, logits in zip(rows, kinds, run(_runner(base), rows), strict=True):
        model = composed(
            case.model, base.modules, [(case.peft[kind], weight) for kind, weight in kind_weights]
        )
        _check(logits, _expected(model, row.tokens), kind_weights)


@pytest.mark.parametrize("kernels", PATHS)
def test_composition_of_lora_equals_pefts(case: Case, kernels: str) -> None:
    """PEFT's own composition, which it has for plain LoRA alone."""
    base, peft_model = case.bases[kernels], copy.deepcopy(case.peft["lora"])
    other = random_adapter(
        case.model, 50, **KINDS["lora"](Names()) | {"r": 3}, **_conv1d(case.model)
    )
    peft_model.add_adapter("other", other.peft_config["default"])
    peft_model.load_state_dict(
        {
            k.replace(".default.", ".other."): v
            for k, v in other.state_dict().items()
            if "lora_" in k
        },
        strict=False,
    )
    peft_model.add_weighted_adapter(
        ["default", "other"], [0.7, 0.4], "both", combination_type="cat"
    )
    peft_model.set_adapter("both")
    other_placed = make_adapter(base, updates_of(other, case.model, base.modules))
    row = Row(_tokens(7), [(case.adapters[kernels]["lora"], 0.7), (other_placed, 0.4)])
    alone = Row(_tokens(7), [(other_placed, 1.0)])
    logits = run(_runner(base), [alone, row])
    _check(logits[0], _expected(other, row.tokens), "other")
    _check(logits[1], _expected(peft_model, row.tokens), "both")


@pytest.mark.parametrize("kernels", PATHS)
def test_added_tokens(case: Case, kernels: str) -> None:
    base = case.bases[kernels]
    larger = copy.deepcopy(case.model)
    larger.resize_token_embeddings(VOCAB + ADDED, mean_resizing=False)
    names, saved = next(n for n in NAMES.values() if n.embedding in _leaves(base)), {}
    kinds: list[dict[str, Any]] = [
        {"modules_to_save": [names.embedding, "lm_head"], "target_modules": "all-linear"},
        {"target_modules": [names.embedding, "lm_head"], "use_dora": True},
    ]
    for i, kind in enumerate(kinds):
        saved[i] = random_adapter(larger, 60 + i, **kind, **_conv1d(case.model))
    rows, expected = [Row(_tokens(1))], [_expected(case.model, _tokens(1))]
    for i, peft_model in saved.items():
        placed = make_adapter(
            base, _with_whole_embeddings(updates_of(peft_model, larger, base.modules), larger)
        )
        tokens = [VOCAB + 2, *_tokens(i, VOCAB + ADDED), VOCAB]
        rows += [
            Row(tokens, [(placed, 1.0)]),
            Row(_tokens(i), [(case.adapters[kernels]["dora"], 1.0)]),
        ]
        expected += [_expected(peft_model, tokens), _expected(case.peft["dora"], _tokens(i))]
    runner = _runner(base)
    for i, (logits, wanted) in enumerate(zip(run(runner, rows), expected, strict=True)):
        assert logits.shape[1] == VOCAB + base.max_added_tokens
        _check(logits, wanted, i)
        assert logits[:, : wanted.shape[1]].isfinite().all()


def _with_whole_embeddings(
    updates: dict[str, ModuleUpdate], larger: nn.Module
) -> dict[str, ModuleUpdate]:
    """LoRA beside the whole weight, as PEFT writes it for a base whose embeddings were resized."""
    return {
        name: replace(u, weight=larger.get_parameter(f"{name}.weight").detach())
        if u.weight is None and larger.get_parameter(f"{name}.weight").shape[0] == VOCAB + ADDED
        else u
        for name, u in updates.items()
    }


@pytest.mark.parametrize("weights", ["auto", "int8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_does_not_depend_on_its_neighbours(
    case: Case, dtype: str, weights: str, tmp_path: Path
) -> None:
    """Bit for bit: among others whose adapters rescale, replace and add, as alone."""
    base = _loaded(case, tmp_path, dtype=dtype, weights=weights)
    assert program_of(base) is not None
    adapters = {kind: make_adapter(base, case.updates(kind)) for kind in KINDS}
    rows = [Row(_tokens(i), [(adapters[kind], 1.0)]) for i, kind in enumerate(KINDS)]
    several = [(adapters[kind], weight) for kind, weight in COMPOSED]
    rows += [Row(_tokens(20)), Row(_tokens(21), several), Row(_tokens(22))]
    runner = _runner(base)
    together = run(runner, rows)
    for i, row in enumerate(rows):
        assert torch.equal(run(runner, [row])[0], together[i]), i
    some = list(reversed(range(0, len(rows), 2)))
    for i, logits in zip(some, run(runner, [rows[i] for i in some]), strict=True):
        assert torch.equal(logits, together[i]), i


def test_a_saved_weight_that_is_the_bases_costs_nothing(case: Case, tmp_path: Path) -> None:
    weights = {
        n: case.model.get_parameter(f"{n}.weight").detach()
        for n, m in case.bases["cpp"].modules.items()
        if m.kind is not ModuleKind.NORM
    }
    int8 = _loaded(
        case, tmp_path, dtype="bfloat16", weights="int8"
    )  # which has not kept the weight that is compared
    for base in (*case.bases.values(), int8):
        empty = base.stage_adapter({}).num_bytes
        assert (
            base.stage_adapter({n: ModuleUpdate(weight=w) for n, w in weights.items()}).num_bytes
            == empty
        )


def test_staged_bytes_are_those_of_the_tensors(case: Case) -> None:
    """A weight that embedding and lm_head share is there once."""
    base = case.bases["torch"]
    embedding, head = (
        next(n for n, m in base.modules.items() if m.kind is kind)
        for kind in (ModuleKind.EMBEDDING, ModuleKind.LM_HEAD)
    )
    weight = torch.ones(base.modules[head].out_features, base.modules[head].in_features)
    for loaded in case.bases.values():
        one = loaded.stage_adapter({head: ModuleUpdate(weight=weight)}).num_bytes
        both = loaded.stage_adapter(
            {head: ModuleUpdate(weight=weight), embedding: ModuleUpdate(weight=weight)}
        )
        assert both.num_bytes == one >= weight.nbytes
    staged = base.stage_adapter(case.updates("lora"))
    assert staged.num_bytes == sum(u.a.nbytes + u.b.nbytes for u in case.updates("lora").values())
    assert base.place_adapter(staged) is staged


def _wrong(base: BaseModel) -> dict[str, tuple[str, ModuleUpdate, str]]:
    """What is refused: module's kind, update, the error's words."""

    def a(rank: int, columns: int) -> torch.Tensor:
        return torch.ones(rank, columns)

    width = next(m.out_features for m in base.modules.values() if m.kind is ModuleKind.EMBEDDING)
    head = a(VOCAB, width)
    return {
        "norm": ("norm", ModuleUpdate(a(2, width), a(width, 2)), "is a norm"),
        "norm's shape": ("norm", ModuleUpdate(weight=torch.ones(width + 1)), "weight has shape"),
        "rank": (
            "lm_head",
            ModuleUpdate(a(5000, width), a(VOCAB, 5000)),
            "rank 5000 is above 4096",
        ),
        "half": ("lm_head", ModuleUpdate(a(2, width)), "one half"),
        "magnitude alone": (
            "lm_head",
            ModuleUpdate(magnitude=torch.ones(VOCAB)),
            "without A and B",
        ),
        "A's shape": ("lm_head", ModuleUpdate(a(2, width + 1), a(VOCAB, 2)), "a has shape"),
        "B's shape": ("lm_head", ModuleUpdate(a(2, width), a(VOCAB + 1, 2)), "b has shape"),
        "no bias": ("lm_head", ModuleUpdate(bias=torch.ones(VOCAB)), "no bias"),
        "embedding's bias": (
            "embedding",
            ModuleUpdate(bias=torch.ones(width)),
            "bias on .* it is an embedding",
        ),
        "fewer tokens": ("lm_head", ModuleUpdate(weight=head[1:]), "weight .* for the base's"),
        "too many added": (
            "lm_head",
            ModuleUpdate(weight=a(VOCAB + 65, width)),
            "65 added tokens, at most 64",
        ),
        "added to one": ("lm_head", ModuleUpdate(weight=a(VOCAB + 1, width)), "alike"),
        "projection's tokens": (
            "linear",
            ModuleUpdate(token_ids=(1,), token_rows=a(1, width)),
            "token_rows on .* it is a projection",
        ),
        "unknown token": (
            "embedding",
            ModuleUpdate(token_ids=(VOCAB,), token_rows=a(1, width)),
            "not in the base's",
        ),
        "token twice": (
            "embedding",
            ModuleUpdate(token_ids=(1, 1), token_rows=a(2, width)),
            "twice",
        ),
        "zero norm": (
            "lm_head",
            ModuleUpdate(
                a(1, width) * 0, a(VOCAB, 1), magnitude=torch.ones(VOCAB), weight=head * 0
            ),
            "zero",
        ),
    }


def test_what_a_module_cannot_take_is_refused(case: Case) -> None:
    base = case.bases["cpp"]
    for what, (kind, update, words) in _wrong(base).items():
        name = next(n for n, m in base.modules.items() if m.kind == kind)
        with pytest.raises(AdapterError, match=words) as caught:
            base.stage_adapter({name: update})
        assert name in str(caught.value), what
    with pytest.raises(AdapterError, match="'nothing'"):
        base.stage_adapter({"nothing": ModuleUpdate(weight=torch.ones(2, 2))})


def _loaded(case: Case, directory: Path, **settings: Any) -> BaseModel:
    case.model.save_pretrained(directory)
    case.bases["cpp"].tokenizer.save_pretrained(directory)
    return BaseModel.load(directory, device="cpu", **settings)


def _leaves(base: BaseModel) -> set[str]:
    return {name.rpartition(".")[2] for name in base.modules}


def _conv1d(model: PreTrainedModel) -> dict[str, Any]:
    return {"fan_in_fan_out": True} if model.config.model_type == "gpt2" else {}


def _runner(base: BaseModel) -> Any:
    return base.make_runner(64, 16)
