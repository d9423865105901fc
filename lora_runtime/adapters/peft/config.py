"""The mathematics of PEFT's adapter_config.json; what cannot be applied is refused by name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ...errors import AdapterError
from . import values
from .fields import FIELDS, HARMLESS_INIT, Verdict
from .files import check_values, decode_object, listed, shown
from .patterns import Patterns
from .tool_fields import INVOCATION_STRINGS
from .values import Rule

MAX_CONFIG_BYTES = 1 << 20
MAX_INVOCATION_TOKENS = 256
"""Limit of the tokens that every prompt is searched for."""
_PREFIXES = {"PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"}
_OTHER_TYPES = _PREFIXES | {"ADALORA", "BOFT", "IA3", "LOHA", "LOKR", "OFT", "VERA", "XLORA"}
_TASKS = {None, "CAUSAL_LM", "FEATURE_EXTRACTION", "SEQ_2_SEQ_LM"}
_BIASES = {"none", "all", "lora_only"}
_SWIFT_TYPES = {None, "LORA"}
_OTHER_TOOLS = (
    ({"lora_parameters"}, "MLX"),
    ({"fine_tune_type", "num_layers"}, "MLX"),
    ({"config", "model_class"}, "the adapters library"),
)
"""Fields by which the adapters of other tools are known, where `peft_type` is missing."""


@dataclass(frozen=True)
class LoraSpec:
    """The mathematics of one LoRA configuration.

    Module names are those of the model that was trained.
    """

    rank: int
    alpha: float
    use_rslora: bool
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    target_modules: Rule
    exclude_modules: Rule
    layers_to_transform: tuple[int, ...]
    layers_pattern: tuple[str, ...]
    bias: str
    lora_bias: bool
    use_dora: bool
    modules_to_save: tuple[str, ...]
    token_indices: tuple[int, ...] | dict[str, tuple[int, ...]] | None
    """Token ids of the input embeddings, or by module name; None where no tokens are trained."""
    ensure_weight_tying: bool
    invocation_tokens: tuple[int, ...]
    base_model_name: str
    notes: tuple[str, ...]
    patterns: Patterns = field(default_factory=Patterns, repr=False, compare=False)
    used: set[tuple[str, str]] = field(default_factory=set, repr=False, compare=False)
    """Keys of rank_pattern and alpha_pattern that have decided on a module, with the field's name."""

    def rank_of(self, module: str) -> int:
        return int(self._by_pattern("rank_pattern", self.rank_pattern, module, self.rank))

    def scaling_of(self, module: str) -> float:
        """Scaling of a module's update: alpha / r, or alpha / sqrt(r) for rsLoRA
        (arXiv:2312.03732)."""
        rank = self.rank_of(module)
        alpha = float(self._by_pattern("alpha_pattern", self.alpha_pattern, module, self.alpha))
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank

    def matches(self, name: str, rule: Rule, module: str) -> bool:
        """True if the rule of the field `name` covers the module."""
        if isinstance(rule, str):
            return self.patterns.full(name, rule, module)
        return any(end in rule for end in path_ends(module))

    def _by_pattern(self, name: str, patterns: dict[str, Any], module: str, default: Any) -> Any:
        for key, value in patterns.items():
            if self.has_key(name, key, module):
                self.used.add((name, key))
                return value
        return default

    def has_key(self, name: str, key: str, module: str) -> bool:
        """True if the key of rank_pattern or alpha_pattern matches the module, as PEFT does."""
        return self.patterns.start(name, rf"(.*\.)?({key})$", module) is not None


def path_ends(module: str) -> Iterable[str]:
    """Ends of a module's path, longest first: a.b.c → a.b.c, b.c, c."""
    while module:
        yield module
        _, _, module = module.partition(".")


def decode_config(data: bytes) -> dict[str, Any]:
    """Decode adapter_config.json into a dict. Raises AdapterError when it is not a JSON object."""
    check_values(data, "adapter_config.json")
    return decode_object(data, "adapter_config.json")


def parse_config(config: dict[str, Any], allow_unknown_fields: bool = False) -> LoraSpec:
    """Check every field. Raises AdapterError naming the first that cannot be applied.

    With `allow_unknown_fields`, those that the table does not know are passed over, with a note.
    """
    if config.get("peft_type") != "LORA":
        raise AdapterError(_other_type(config))
    notes = _check_fields(config, allow_unknown_fields)
    spec = LoraSpec(
        rank=values.number(config, "r", int, 8),
        alpha=values.number(config, "lora_alpha", float, 8),
        use_rslora=values.flag(config, "use_rslora"),
        rank_pattern=values.by_name(config, "rank_pattern", int),
        alpha_pattern=values.by_name(config, "alpha_pattern", float),
        target_modules=values.rule(config, "target_modules"),
        exclude_modules=values.rule(config, "exclude_modules"),
        layers_to_transform=values.layers(config),
        layers_pattern=values.names(config, "layers_pattern"),
        bias=values.choice(config, "bias", "none", _BIASES),
        lora_bias=values.flag(config, "lora_bias"),
        use_dora=values.flag(config, "use_dora"),
        modules_to_save=values.names(config, "modules_to_save", list_only=True),
        token_indices=values.token_indices(config),
        ensure_weight_tying=values.flag(config, "ensure_weight_tying"),
        invocation_tokens=_invocation_tokens(config),
        base_model_name=values.text(config, "base_model_name_or_path"),
        notes=notes,
    )
    _check_combinations(spec)
    return spec


def _other_type(config: dict[str, Any]) -> str:
    # Only what is surely PEFT's is told: a file that is no adapter's may be somebody's secret.
    value = config.get("peft_type")
    if value is None:
        kind = next((kind for names, kind in _OTHER_TOOLS if names <= config.keys()), "")
        which = f"it is an adapter of {kind}, not PEFT's" if kind else "it names no peft_type"
        return f"adapter_config.json: {which}: only peft_type 'LORA' is supported"
    known = isinstance(value, str) and value in _OTHER_TYPES
    which = f"peft_type {value!r}" if known else "its peft_type"
    return f"{which} is not supported: only LORA is"


def _check_fields(config: dict[str, Any], allow_unknown: bool) -> tuple[str, ...]:
    """Check every field by its verdict; gives the notes on those that had an effect in training."""
    notes, unknown = [], []
    for name, value in config.items():
        known = FIELDS.get(name)
        if not value:  # unset (null, false, empty): PEFT's way to say that the feature is off
            continue
        if known is None:
            unknown.append(name)
        elif known.verdict is Verdict.REFUSED and not _is_told_twice(name, config):
            raise AdapterError(
                f"config field {shown(name)} = {shown(value)} is not supported: {known.words}"
            )
        elif known.training:
            notes.append(f"{name} = {shown(value)} has no effect: {known.words}")
    if unknown:
        notes.append(_passed_over(unknown, config, allow_unknown))
    if note := _start(config.get("init_lora_weights", True)):
        notes.append(note)
    task = values.choice(config, "task_type", None, _TASKS)
    if task not in (None, "CAUSAL_LM"):
        notes.append(f"task_type = {task!r}: served as a causal language model")
    values.choice(config, "swift_type", None, _SWIFT_TYPES)
    return tuple(notes)


def _passed_over(unknown: list[str], config: dict[str, Any], allowed: bool) -> str:
    """The note on fields that the table does not know. Raises AdapterError where they may not be
    passed over."""
    if allowed:
        return f"unknown fields passed over (allow_unknown_fields): {listed(unknown)}"
    first, more = unknown[0], f" (and {listed(unknown[1:])})" if unknown[1:] else ""
    raise AdapterError(
        f"config field {shown(first)} = {shown(config[first])} is not supported: it is not known"
        f"{more}; allow_unknown_fields passes over what is not known"
    )


def _is_told_twice(name: str, config: dict[str, Any]) -> bool:
    return name in INVOCATION_STRINGS and bool(config.get("alora_invocation_tokens"))


def _invocation_tokens(config: dict[str, Any]) -> tuple[int, ...]:
    name = "alora_invocation_tokens"
    tokens = values.integers(name, config.get(name) or [])
    if len(tokens) > MAX_INVOCATION_TOKENS:
        raise AdapterError(
            f"config field {name!r} holds {len(tokens)} tokens, the limit is "
            f"{MAX_INVOCATION_TOKENS}"
        )
    return tokens


def _start(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return ""
    if isinstance(value, str) and value.lower() in HARMLESS_INIT:
        return f"init_lora_weights = {value!r} has no effect: how training began"
    raise AdapterError(
        f"config field 'init_lora_weights' = {shown(value)} is not supported: it changes the base"
    )


def _check_combinations(spec: LoraSpec) -> None:
    """Refuse what PEFT refuses, and what activated LoRA cannot be combined with here."""
    if isinstance(spec.target_modules, str):
        for name in ("layers_to_transform", "layers_pattern"):
            if getattr(spec, name):
                raise AdapterError(
                    f"config field {name!r} cannot be used with a string as 'target_modules'"
                )
    if spec.layers_pattern and not spec.layers_to_transform:
        raise AdapterError("config field 'layers_pattern' is set without 'layers_to_transform'")
    if not spec.target_modules:
        raise AdapterError(
            "config field 'target_modules' is empty: PEFT's defaults by architecture are not used, "
            "name the modules"
        )
    if spec.use_dora and spec.lora_bias:
        raise AdapterError("config field 'lora_bias' cannot be used with 'use_dora'")
    if spec.invocation_tokens:
        for name in ("use_dora", "modules_to_save", "token_indices"):
            if getattr(spec, name):
                field_name = "trainable_token_indices" if name == "token_indices" else name
                raise AdapterError(
                    f"config field {field_name!r} cannot be used with 'alora_invocation_tokens'"
                )
        if spec.bias != "none":
            raise AdapterError(
                f"config field 'bias' = {spec.bias!r} cannot be used with 'alora_invocation_tokens'"
            )
