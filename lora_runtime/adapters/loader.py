"""Reads one PEFT adapter directory; every tensor is applied or the adapter is refused."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors
import safetensors.torch
import torch

from ..errors import AdapterError, BaseMismatchError
from ..types import AppliedModule
from .config import MAX_CONFIG_BYTES, LoraSpec, decode_config, matches, parse_config, read_limited
from .update import BaseModule, CheckedAdapter, ModuleKind, ModuleUpdate

if TYPE_CHECKING:
    from ..base import BaseModel

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def read_adapter(directory: Path, base: BaseModel, *, max_bytes: int, max_added_tokens: int) -> CheckedAdapter:
    """Read, check and copy to the device. Never unpickles.

    Raises AdapterError naming what is missing, corrupt or unsupported, and BaseMismatchError when
    the modules or shapes are not the base's.
    """
    config_bytes = read_limited(directory / CONFIG, MAX_CONFIG_BYTES)
    spec = parse_config(decode_config(config_bytes))
    if not (directory / WEIGHTS).is_file():
        raise AdapterError(f"{WEIGHTS} is missing from {directory.name!r} (pickled weights are never read)")
    # Read once: what is hashed is what is applied, even if the file changes meanwhile.
    weight_bytes = read_limited(directory / WEIGHTS, max_bytes)
    tensors = _decode_tensors(weight_bytes)
    pairs = _pair_up(tensors)
    _check_targets(spec, pairs.keys(), base)
    weights = {name: _apply(name, a, b, spec, base) for name, (a, b) in sorted(pairs.items())}
    return CheckedAdapter(
        version=_version(base, config_bytes, weight_bytes),
        base_model_name=spec.base_model_name,
        updates=weights,
        modules=tuple(AppliedModule(n, w.rank, w.scaling) for n, w in weights.items()),
    )


def _decode_tensors(data: bytes) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise AdapterError(f"{WEIGHTS} is corrupt: {error}") from error


def _pair_up(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Module path → (A, B). Raises AdapterError for any tensor that is not one half of a pair."""
    sides: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise AdapterError(f"tensor {key!r} is not a LoRA weight of a linear projection: not supported")
        if tensor.dtype not in _FLOATS:
            raise AdapterError(f"tensor {key!r} has dtype {tensor.dtype}: not supported")
        if not torch.isfinite(tensor).all():
            raise AdapterError(f"tensor {key!r} holds NaN or infinite values")
        if match["side"] in sides.setdefault(match["module"], {}):
            raise AdapterError(f"tensor {key!r} appears twice")
        sides[match["module"]][match["side"]] = tensor
    for module, found in sides.items():
        if len(found) == 1:
            raise AdapterError(f"module {module!r} has lora_{next(iter(found))} without its other half")
    if not sides:
        raise AdapterError(f"{WEIGHTS} holds no tensors")
    return {module: (found["A"], found["B"]) for module, found in sides.items()}


def _check_targets(spec: LoraSpec, present: Iterable[str], base: BaseModel) -> None:
    """The modules with tensors must be exactly those that the configuration targets in the base."""
    modules, projections = set(present), _projections(base)
    made_for = f"the adapter was made for {spec.base_model_name!r}, the base is {base.name!r}"
    if missing := sorted(modules - projections.keys()):
        if any(base.has_module(m) for m in missing):
            raise AdapterError(f"LoRA on {missing[0]!r} is not supported: it is no linear projection of a layer")
        raise BaseMismatchError(f"module {missing[0]!r} is not in the base model: {made_for}")
    targets = spec.targets(projections)
    if unclaimed := sorted(modules - targets):
        raise AdapterError(f"tensors of module {unclaimed[0]!r} do not match the config's target_modules")
    if unfilled := sorted(targets - modules):
        raise AdapterError(f"target module {unfilled[0]!r} has no tensors in {WEIGHTS}")
    if not isinstance(spec.target_modules, str):
        for name in spec.target_modules:
            if not any(matches((name,), m) for m in modules):
                raise BaseMismatchError(f"target module {name!r} is not in the base model: {made_for}")


def _apply(name: str, a: torch.Tensor, b: torch.Tensor, spec: LoraSpec, base: BaseModel) -> ModuleUpdate:
    projection, rank = base.modules[name], spec.rank_of(name)
    # PEFT keeps A (r, in) and B (out, r) in this layout for Conv1D too: fan_in_fan_out is about W only.
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != rank or b.shape[1] != rank:
        shapes = f"A {tuple(a.shape)} and B {tuple(b.shape)}"
        raise AdapterError(f"module {name!r}: {shapes} do not have the config's rank {rank}")
    if (b.shape[0], a.shape[1]) != (projection.out_features, projection.in_features):
        raise BaseMismatchError(
            f"module {name!r}: the adapter maps {a.shape[1]} → {b.shape[0]} features, the base model "
            f"{projection.in_features} → {projection.out_features}: the adapter was made for {spec.base_model_name!r}"
        )
    return ModuleUpdate(a, b, spec.scaling_of(name))


def _projections(base: BaseModel) -> dict[str, BaseModule]:
    return {name: m for name, m in base.modules.items() if m.kind is ModuleKind.LINEAR}


def _version(base: BaseModel, *files: bytes) -> str:
    digest = hashlib.sha256(base.identity.encode())
    for data in files:
        digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()
