"""Adapters, or parts of them, that change nothing: PEFT loads them without a word, here it is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from .config import LoraSpec
from .files import listed
from .targets import Targets
from .update import ModuleUpdate

_FIRST_ROWS = 16
"""Rows that are looked at first: those of a trained factor are hardly ever all zero."""


def without_effect(
    spec: LoraSpec,
    targets: Targets,
    names: Mapping[str, str],
    updates: Mapping[str, ModuleUpdate],
) -> tuple[str, ...]:
    """Notes on what an adapter holds and does not do.

    `names`: names in the model that was trained, by module of the base.
    """
    return (*_updates(updates), *_patterns(spec, [names[m] for m in targets.all_lora]))


def _updates(updates: Mapping[str, ModuleUpdate]) -> Iterator[str]:
    """Notes on LoRA that adds nothing: scaled by 0, or with a factor that is all zero."""
    found: dict[str, list[str]] = {}
    for module in sorted(updates):
        if cause := _cause(updates[module]):
            found.setdefault(cause, []).append(module)
    idle = {module for modules in found.values() for module in modules}
    lora = [module for module, update in updates.items() if update.a is not None]
    if idle and all(m in idle and not _has_more(u) for m, u in updates.items()):
        yield f"the adapter changes nothing, its output is the base's: {', '.join(found)}"
        return
    for cause, modules in found.items():
        yield f"{len(modules)} of {len(lora)} modules: {cause}, LoRA adds nothing: {listed(modules)}"


def _cause(update: ModuleUpdate) -> str:
    """Why a module's LoRA adds nothing, or ""."""
    if update.a is None or update.b is None:
        return ""
    if update.scaling == 0:
        return "lora_alpha is 0"
    if update.lora_bias is not None and not _is_zero(update.lora_bias):
        return ""
    if _is_zero(update.b):
        return "B is 0"
    return "A is 0" if _is_zero(update.a) else ""


def _has_more(update: ModuleUpdate) -> bool:
    """True if something else than LoRA's sum changes the module. A DoRA magnitude does, unless it
    is the norm of the base's own weight, which is not looked at."""
    others = (update.magnitude, update.weight, update.bias, update.token_rows)
    return any(tensor is not None for tensor in others)


def _is_zero(tensor: torch.Tensor) -> bool:
    return not tensor[:_FIRST_ROWS].any() and not tensor.any()


def _patterns(spec: LoraSpec, names: Sequence[str]) -> Iterator[str]:
    """Notes on keys of rank_pattern and alpha_pattern that match no module with LoRA."""
    for name, keys in (("rank_pattern", spec.rank_pattern), ("alpha_pattern", spec.alpha_pattern)):
        unused = [key for key in keys if (name, key) not in spec.used]
        missing = [k for k in unused if not any(spec.has_key(name, k, module) for module in names)]
        if missing:
            yield f"{name}: no module is trained for {listed(missing)}"
