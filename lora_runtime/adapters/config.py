"""PEFT's adapter_config.json: what loramux applies, what is harmless, and what it refuses."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import AdapterError

MAX_CONFIG_BYTES = 1 << 20

# Fields that say how the adapter was trained or where it comes from; they do not change inference.
_HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "peft_version", "revision", "task_type", "inference_mode",
    "lora_dropout", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "runtime_config", "qalora_group_size", "ensure_weight_tying",
}
_APPLIED = {
    "peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules",
    "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out", "bias", "init_lora_weights",
}
# Initialisations that leave the base as it was; the others (pissa, olora, ...) train against a changed base.
_HARMLESS_INIT = {"gaussian", "eva", "orthogonal"}


@dataclass(frozen=True)
class LoraSpec:
    """The mathematics of one LoRA configuration."""

    rank: int
    alpha: float
    use_rslora: bool
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    target_modules: str | tuple[str, ...]
    exclude_modules: str | tuple[str, ...]
    layers_to_transform: tuple[int, ...]
    layers_pattern: tuple[str, ...]
    base_model_name: str

    def rank_of(self, module: str) -> int:
        return int(_by_pattern(self.rank_pattern, module, self.rank))

    def scaling_of(self, module: str) -> float:
        """alpha / r, or alpha / sqrt(r) for rsLoRA (arXiv:2312.03732)."""
        rank = self.rank_of(module)
        alpha = float(_by_pattern(self.alpha_pattern, module, self.alpha))
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank

    def targets(self, modules: Iterable[str]) -> set[str]:
        """Those of the base's linear `modules` that the configuration targets, by PEFT's rules."""
        return {m for m in modules if not matches(self.exclude_modules, m) and self._is_target(m)}

    def _is_target(self, module: str) -> bool:
        if isinstance(self.target_modules, str):
            return self.target_modules.lower() == "all-linear" or matches(self.target_modules, module)
        if not matches(self.target_modules, module):
            return False
        return not self.layers_to_transform or self._layer_of(module) in self.layers_to_transform

    def _layer_of(self, module: str) -> int | None:
        patterns = [rf"(?:^|.*?\.){p}\.(\d+)\." for p in self.layers_pattern] or [r".*?\.[^.]*\.(\d+)\."]
        found = next((m for p in patterns if (m := re.match(p, module))), None)
        return int(found[1]) if found else None


def read_limited(path: Path, limit: int) -> bytes:
    """The file's bytes. Raises AdapterError when it cannot be read or is larger than `limit` bytes."""
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise AdapterError(f"{path.name} cannot be read: {error.strerror}") from error
    if len(data) > limit:
        raise AdapterError(f"{path.name} is larger than the limit of {limit} bytes")
    return data


def decode_config(data: bytes) -> dict[str, Any]:
    """adapter_config.json as a dict. Raises AdapterError when it is not a JSON object."""
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"adapter_config.json is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise AdapterError("adapter_config.json is not a JSON object")
    return config


def parse_config(config: dict[str, Any]) -> LoraSpec:
    """Check every field. Raises AdapterError naming the first that cannot be applied."""
    peft_type = config.get("peft_type")
    if peft_type != "LORA":
        raise AdapterError(f"peft_type {peft_type!r} is not supported: only LORA is")
    for name, value in config.items():
        # An unset field (null, false, empty) is PEFT's way to say that the feature is off.
        if value and name not in _APPLIED | _HARMLESS:
            raise AdapterError(f"config field {name!r} = {str(value)[:80]!r} is not supported")
    if config.get("bias", "none") != "none":
        raise AdapterError(f"config field 'bias' = {config['bias']!r} is not supported: only 'none' is")
    init = config.get("init_lora_weights", True)
    if not isinstance(init, bool) and init not in _HARMLESS_INIT:
        raise AdapterError(f"config field 'init_lora_weights' = {init!r} is not supported: it changes the base")
    return LoraSpec(
        rank=_number(config, "r", int, 8),
        alpha=_number(config, "lora_alpha", float, 8),
        use_rslora=bool(config.get("use_rslora")),
        rank_pattern=_pattern(config, "rank_pattern", int),
        alpha_pattern=_pattern(config, "alpha_pattern", float),
        target_modules=_targets(config),
        exclude_modules=_names(config, "exclude_modules"),
        layers_to_transform=_layers(config),
        layers_pattern=_as_tuple(_names(config, "layers_pattern")),
        base_model_name=str(config.get("base_model_name_or_path") or ""),
    )


def matches(rule: str | tuple[str, ...], module: str) -> bool:
    """A string is a regular expression for the whole path, a list holds names or path ends."""
    if isinstance(rule, str):
        return re.fullmatch(rule, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in rule)


def _by_pattern(patterns: dict[str, Any], module: str, default: Any) -> Any:
    return next((v for key, v in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _number(config: dict[str, Any], name: str, kind: type, default: float) -> Any:
    value = config.get(name)
    return _positive(name, default if value is None else value, kind)


def _positive(name: str, value: Any, kind: type) -> Any:
    allowed = (int,) if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed) or not 0 < value < math.inf:
        raise AdapterError(f"config field {name!r} = {value!r} is not a positive number")
    return kind(value)


def _pattern(config: dict[str, Any], name: str, kind: type) -> dict[str, Any]:
    value = config.get(name) or {}
    if not isinstance(value, dict):
        raise AdapterError(f"config field {name!r} is not an object")
    for key in value:
        _compile(name, key)
    return {key: _positive(f"{name}.{key}", v, kind) for key, v in value.items()}


def _targets(config: dict[str, Any]) -> str | tuple[str, ...]:
    targets = _names(config, "target_modules")
    if not targets:
        raise AdapterError("config field 'target_modules' is empty")
    return targets


def _names(config: dict[str, Any], name: str) -> str | tuple[str, ...]:
    value = config.get(name)
    if not value:
        return ()
    if isinstance(value, str):
        if name != "layers_pattern":
            _compile(name, value)
        return value
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    raise AdapterError(f"config field {name!r} is neither a string nor a list of strings")


def _as_tuple(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def _layers(config: dict[str, Any]) -> tuple[int, ...]:
    value = config.get("layers_to_transform")
    if value is None:
        return ()
    layers = value if isinstance(value, list) else [value]
    if not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in layers):
        raise AdapterError(f"config field 'layers_to_transform' = {value!r} is not a list of layer numbers")
    return tuple(layers)


def _compile(name: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise AdapterError(f"config field {name!r} holds a bad regular expression {pattern!r}: {error}") from error
