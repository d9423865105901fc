"""Every field of PEFT's LoraConfig, and those of other tools, and what loramux makes of it: the one
table for the loader and for its page.

`python -m lora_runtime.adapters.peft.fields --write docs/guide/adapter-config.md` renews the table
between the page's markers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from . import tool_fields

BEGIN, END = "<!-- peft-fields -->", "<!-- /peft-fields -->"


class Verdict(StrEnum):
    """Fate of a field that is set: applied, refused, or without effect."""

    APPLIED = "applied"
    NO_EFFECT = "no effect"
    REFUSED = "refused"


@dataclass(frozen=True)
class Field:
    """One field of adapter_config.json."""

    name: str
    verdict: Verdict
    words: str
    training: bool = False
    """True if it matters in training only: noted in the report when it is set."""


def _applied(name: str, words: str) -> Field:
    return Field(name, Verdict.APPLIED, words)


def _silent(name: str, words: str) -> Field:
    return Field(name, Verdict.NO_EFFECT, words)


def _training(name: str, words: str) -> Field:
    return Field(name, Verdict.NO_EFFECT, words, training=True)


def _refused(name: str, words: str) -> Field:
    return Field(name, Verdict.REFUSED, words)


PEFT = (
    _applied("peft_type", "`LORA`; the other methods are refused"),
    _applied(
        "task_type",
        "`CAUSAL_LM`, `FEATURE_EXTRACTION`, `SEQ_2_SEQ_LM` or unset, served as a causal language "
        "model; tasks with a head of their own are refused",
    ),
    _applied("r", "the rank, checked against every tensor"),
    _applied("lora_alpha", "scaling is `lora_alpha / r`"),
    _applied("use_rslora", "scaling is `lora_alpha / sqrt(r)`"),
    _applied("rank_pattern", "ranks by module, PEFT's matching"),
    _applied("alpha_pattern", "alphas by module, PEFT's matching"),
    _applied(
        "target_modules",
        "list, regular expression or `all-linear`; linear layers, embeddings, lm_head; names that "
        "match nothing are noted, unless nothing matches",
    ),
    _applied("exclude_modules", "list or regular expression"),
    _applied("layers_to_transform", "one layer or a list"),
    _applied("layers_pattern", "with `layers_to_transform`"),
    _applied("bias", "`none`, `all`, `lora_only`: saved biases replace the base's"),
    _applied("lora_bias", "a bias beside B"),
    _applied("use_dora", "DoRA on linear layers, embeddings and lm_head"),
    _applied(
        "modules_to_save",
        "whole linear layers, norms, embeddings, lm_head replace the base's; names that match "
        "nothing are noted",
    ),
    _applied(
        "trainable_token_indices",
        "single rows of the embeddings, and of an lm_head tied to them, as PEFT ties",
    ),
    _applied("ensure_weight_tying", "embeddings and a tied lm_head change together"),
    _applied("alora_invocation_tokens", "activated LoRA: linear layers, without other parts"),
    _applied(
        "init_lora_weights",
        "starts that leave the base alone (`true`, `false`, `gaussian`, `eva`, `orthogonal`, "
        "`mica`); those that change it (`pissa`, `olora`, `loftq`, `corda`, `lora_ga`) are refused",
    ),
    _silent("fan_in_fan_out", "the layout follows from the base's layer, as in PEFT"),
    _silent("auto_mapping", "names the class that was trained"),
    _silent("base_model_name_or_path", "shown in reports and errors"),
    _silent("revision", "where the base came from"),
    _silent("peft_version", "who wrote the files"),
    _silent("inference_mode", "a flag of the PEFT object"),
    _silent("runtime_config", "where PEFT computes, not what"),
    _silent("megatron_core", "a module's name, used with `megatron_config`"),
    _silent("qalora_group_size", "used with `use_qalora`"),
    _training("lora_dropout", "dropout in training"),
    _training("loftq_config", "used by the `loftq` start"),
    _training("eva_config", "used by the `eva` start"),
    _training("corda_config", "used by the `corda` start"),
    _training("lora_ga_config", "used by the `lora_ga` start"),
    _refused("target_parameters", "LoRA on bare parameters"),
    _refused("layer_replication", "another stack of layers than the base's"),
    _refused("megatron_config", "Megatron's parallel layers"),
    _refused("use_qalora", "inputs pooled in groups"),
    _refused("use_bdlora", "block-diagonal factors"),
    _refused("arrow_config", "routing between adapters"),
    _refused("kasa_config", "changes the base's weights"),
    _refused("velora_config", "saves more than A and B"),
    _refused("monteclora_config", "sampled weights"),
)
_TOOLS: tuple[tuple[Field, ...], ...] = (
    (_applied("swift_type", "`LORA`; ms-swift's other tuners are refused"),),
    *(
        tuple(make(name, words) for name in sorted(names.split()))
        for make, groups in (
            (_silent, tool_fields.SILENT),
            (_training, tool_fields.TRAINING),
            (_refused, tool_fields.REFUSED),
        )
        for names, words in groups
    ),
)
"""Fields of other tools, those of one kind together."""
FIELDS = {field.name: field for group in (PEFT, *_TOOLS) for field in group}

HARMLESS_INIT = frozenset({"gaussian", "eva", "orthogonal", "mica"})
"""Starts that leave the base as it was; others train against a changed base, not the served one."""


def markdown() -> str:
    """The page's tables."""
    peft = _rows("field of `adapter_config.json`", [(field,) for field in PEFT])
    return "\n".join([*peft, "", *_rows("fields of other tools", _TOOLS)])


def _rows(title: str, groups: Sequence[tuple[Field, ...]]) -> list[str]:
    rows = [
        f"| {', '.join(f'`{field.name}`' for field in group)} | {group[0].verdict} | {group[0].words} |"
        for group in groups
    ]
    return [f"| {title} | here | |", "| --- | --- | --- |", *rows]


def renew(text: str) -> str:
    """Renew the table in `text` between its markers. Raises ValueError if it lacks them."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the text lacks the markers {BEGIN} and {END}")
    return f"{head}{BEGIN}\n{markdown()}\n{END}{tail}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, or write it into a file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="renew the table between this file's markers"
    )
    path = parser.parse_args(arguments).write
    if path is None:
        print(markdown())
    else:
        path.write_text(renew(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
