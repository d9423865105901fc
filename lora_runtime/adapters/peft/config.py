"""The mathematics of PEFT's adapter_config.json; what cannot be applied is refused by name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ...errors import AdapterError
from . import values
from .fields import FIELDS, HARMLESS_INIT, Verdict
from .files import check_values, decode_object, shown
from .patterns import Patterns
from .values import Rule

MAX_CONFIG_BYTES = 1 << 20
MAX_INVOCATION_TOKENS = 256
"""Limit of the tokens that every prompt is searched for."""
_PREFIXES = {"PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"}
_OTHER_TYPES = _PREFIXES | {"ADALORA", "BOFT", "IA3", "LOHA", "LOKR", "OFT", "VERA", "XLORA"}
_TASKS = {None, "CAUSAL_LM", "FEATURE_EXTRACTION"}
_BIASES = {"none", "all", "lora_only"}


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
            if self.patterns.start(name, rf"(.*\.)?({key})$", module):
                return value
        return default


def path_ends(module: str) -> Iterable[str]:
    """Ends of a module's path, longest first: a.b.c → a.b.c, b.c, c."""
    while module:
        yield module
        _, _, module = module.partition(".")


def decode_config(data: bytes) -> dict[str, Any]:
    """Decode adapter_config.json into a dict. Raises AdapterError when it is not a JSON object."""
    check_values(data, "adapter_config.json")
    return decode_object(data, "adapter_config.json")


def parse_config(config: dict[str, Any]) -> LoraSpec:
    """Check every field. Raises AdapterError naming the first that cannot be applied."""
    if config.get("peft_type") != "LORA":
        raise AdapterError(_other_type(config.get("peft_type")))
    notes = _check_fields(config)
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


def _other_type(value: Any) -> str:
    # Only what is surely PEFT's is told: a file that is no adapter's may be somebody's secret.
    known = isinstance(value, str) and value in _OTHER_TYPES
    which = f"peft_type {value!r}" if known else "its peft_type"
    return f"{which} is not supported: only LORA is"


def _check_fields(config: dict[str, Any]) -> tuple[str, ...]:
    """Check every field by its verdict; gives the notes on those that had an effect in training."""
    notes = []
    for name, value in config.items():
        known = FIELDS.get(name)
        # An unset field (null, false, empty) is PEFT's way to say that the feature is off.
        if value and (known is None or known.verdict is Verdict.REFUSED):
            why = f": {known.words}" if known else ""
            raise AdapterError(f"config field {shown(name)} = {shown(value)} is not supported{why}")
        if value and known and known.training:
            notes.append(f"{name} = {shown(value)} has no effect: {known.words}")
    if note := _start(config.get("init_lora_weights", True)):
        notes.append(note)
    task = values.choice(config, "task_type", None, _TASKS)
    if task not in (None, "CAUSAL_LM"):
        notes.append(f"task_type = {task!r}: served as a causal language model")
    return tuple(notes)


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
        raise AdapterError("config field 'target_modules' is empty")
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
