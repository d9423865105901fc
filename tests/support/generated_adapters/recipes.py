"""What is generated: recipes of adapter directories, as hypothesis strategies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from .changes import CHANGES, NAMES, SHARDS
from .fields import (
    CONFIG_FIELDS,
    FIELDS,
    GPT2_SAVED,
    GPT2_TARGETS,
    LLAMA_TARGETS,
    ODD_TARGETS,
    SAVED,
)
from .tokenizers import TOKENIZERS


@dataclass(frozen=True)
class Recipe:
    """How one directory comes to be. PEFT writes it, then it is changed."""

    base: str
    lora: Mapping[str, Any]
    """Fields of LoraConfig."""
    seed: int = 0
    headless: bool = False
    """Trained on AutoModel: names lack the path to the language model."""
    rows: int = 0
    """Rows added to the base's, or taken from them, before training."""
    save_embeddings: bool | str = "auto"
    config: Mapping[str, Any] = field(default_factory=dict)
    """Fields of adapter_config.json to write over; DROP takes one out."""
    tensors: tuple[str, ...] = ()
    """Names of changes in `changes.CHANGES`."""
    names: str = "plain"
    """Name of a way to write names, in `changes.NAMES`."""
    shards: str = "whole"
    tokenizer: str = "none"
    allow_unknown_fields: bool = False


@st.composite
def recipes(draw: st.DrawFn, bases: Sequence[str]) -> Recipe:
    """Recipes for these bases, of at most four peculiarities: what one refuses hides the others."""
    base = draw(st.sampled_from(list(bases)))
    targets, saved = (GPT2_TARGETS, GPT2_SAVED) if base == "gpt2" else (LLAMA_TARGETS, SAVED)
    fields = {**FIELDS, "modules_to_save": saved, "target_modules": (*targets, *ODD_TARGETS)}
    choices = {
        "headless": (True,),
        "rows": (-12, -8, -1, 1, 4),
        "save_embeddings": (True, False),
        "names": sorted(NAMES.keys() - {"plain"}),
        "shards": sorted(SHARDS.keys() - {"whole"}),
        "tokenizer": TOKENIZERS,
    }
    lora = {"r": 4, "task_type": "CAUSAL_LM", "target_modules": draw(st.sampled_from(targets))}
    recipe: dict[str, Any] = {"config": {}, "tensors": ()}
    kinds = ["lora", "lora", "lora", "config", "tensors", "tokenizer", *choices]
    for kind in draw(st.lists(st.sampled_from(kinds), max_size=4)):
        if kind == "lora":
            name = draw(st.sampled_from(sorted(fields)))
            lora[name] = draw(st.sampled_from(list(fields[name])))
        elif kind == "config":
            name = draw(st.sampled_from(sorted(CONFIG_FIELDS)))
            recipe["config"][name] = draw(st.sampled_from(list(CONFIG_FIELDS[name])))
        elif kind == "tensors":
            recipe["tensors"] = (*recipe["tensors"], draw(st.sampled_from(sorted(CHANGES))))
        else:
            recipe[kind] = draw(st.sampled_from(choices[kind]))
    return Recipe(
        base, lora, draw(st.integers(0, 7)), allow_unknown_fields=draw(st.booleans()), **recipe
    )
