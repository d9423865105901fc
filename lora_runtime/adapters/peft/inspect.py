"""Inspection of an adapter directory without a server: alone, or against a base of which only the
config is read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from ...api.adapters import AppliedModule
from ...config import EngineConfig
from ...errors import BaseModelError
from ...model.loading import eos_ids, identity_of
from ...model.modules import base_modules
from ...model.source import check_source
from ...modules import BaseModule, ModuleKind
from .assemble import assemble
from .config import LoraSpec
from .effect import without_effect
from .generation import GENERATION_CONFIG
from .keys import Layout, Part, place_alone
from .loader import open_weights, read_adapter, read_spec, unused_note
from .shapes import Shapes
from .targets import resolve

_ANY_VOCABULARY = 1 << 31


@dataclass(frozen=True)
class DescribedBase:
    """A base as its directory describes it, without its weights."""

    name: str
    identity: str
    modules: Mapping[str, BaseModule]
    tokenizer: Any
    vocab_size: int
    eos_token_ids: frozenset[int] = frozenset()


@dataclass(frozen=True)
class AdapterReport:
    """Report on what the loader would apply."""

    path: str
    base_model_name: str
    """Base that the adapter was made for, as its config names it."""
    checked_against: str
    """Base that it was checked against; empty where there was none."""
    version: str
    """Version as a server of this base shows it; without a base the SHA-256 of config and
    weights."""
    modules: tuple[AppliedModule, ...]
    invocation_tokens: tuple[int, ...]
    vocab_size: int
    own_tokenizer: bool
    notes: tuple[str, ...]


def describe_base(directory: Path) -> DescribedBase:
    """Describe a base by building transformers' model on the meta device.

    Raises BaseModelError for what cannot be built.
    """
    check_source(directory)
    try:
        config = AutoConfig.from_pretrained(
            directory, trust_remote_code=False, local_files_only=True
        )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        if (directory / GENERATION_CONFIG).exists():
            model.generation_config = GenerationConfig.from_pretrained(
                directory, local_files_only=True
            )
        tokenizer = AutoTokenizer.from_pretrained(
            directory, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise BaseModelError(
            f"base model {str(directory)!r} cannot be described: {error}"
        ) from error
    vocab_size = int(config.get_text_config().vocab_size)
    return DescribedBase(
        directory.name,
        identity_of(directory, model),
        base_modules(model),
        tokenizer,
        vocab_size,
        eos_ids(model, tokenizer),
    )


def inspect_adapter(
    path: Path,
    base: Path | None = None,
    *,
    max_bytes: int = EngineConfig.max_adapter_bytes,
    max_added_tokens: int = EngineConfig.max_added_tokens,
    allow_unknown_fields: bool = False,
) -> AdapterReport:
    """Check all that can be checked.

    Without a base that is config, file, pairs and values, but no targets and shapes.
    `allow_unknown_fields` as Engine.load_adapter has it. Raises AdapterError as the loader does, and
    BaseModelError for a base that is none.
    """
    if base is None:
        return _alone(path, max_bytes, allow_unknown_fields)
    described = describe_base(base)
    checked = read_adapter(
        path,
        described,
        max_bytes=max_bytes,
        max_added_tokens=max_added_tokens,
        allow_unknown_fields=allow_unknown_fields,
    )
    return AdapterReport(
        str(path),
        checked.base_model_name,
        described.name,
        checked.version,
        checked.modules,
        checked.invocation_tokens,
        checked.vocab_size,
        checked.tokenizer is not None,
        checked.notes,
    )


def _alone(path: Path, max_bytes: int, allow_unknown_fields: bool) -> AdapterReport:
    config_bytes, spec = read_spec(path, allow_unknown_fields=allow_unknown_fields)
    with open_weights(path, max_bytes) as weights:
        file = weights.read()
    layout = place_alone(file.tensors)
    modules = _guess(spec, layout, file.tensors)
    shapes = Shapes(modules, "no base was given")
    targets = resolve(spec, modules, layout.names)
    done = assemble(spec, targets, layout, file.tensors, shapes, 0)
    warnings = without_effect(spec, targets, layout.names, done.updates)
    digest = hashlib.sha256(hashlib.sha256(config_bytes).digest() + file.digest).hexdigest()
    unchecked = "without a base, targets and shapes were not checked"
    return AdapterReport(
        str(path),
        spec.base_model_name,
        "",
        digest,
        done.modules,
        spec.invocation_tokens,
        0,
        False,
        (*warnings, *spec.notes, *targets.notes, *unused_note(done.unused), unchecked),
    )


def _guess(
    spec: LoraSpec, layout: Layout, tensors: Mapping[str, torch.Tensor]
) -> dict[str, BaseModule]:
    """Guess the base's modules from the shapes that the tensors ask for."""
    parts = {
        m: {part: tensors[name] for part, name in found.items()}
        for m, found in layout.parts.items()
    }
    modules = {module: _module(module, parts[module]) for module in parts}
    _guess_vocabulary(modules)
    embedding = next((m for m, base in modules.items() if base.kind is ModuleKind.EMBEDDING), "")
    for module, base in modules.items():
        follows = Part.TOKENS in parts[module] and isinstance(spec.token_indices, tuple)
        if base.kind is ModuleKind.LM_HEAD and (spec.ensure_weight_tying or follows):
            modules[module] = replace(base, tied_to=embedding)
    return modules


def _guess_vocabulary(modules: dict[str, BaseModule]) -> None:
    """Give an embedding that does not say how many tokens it has those of the lm_head, if that does."""
    heads = (m.out_features for m in modules.values() if m.kind is ModuleKind.LM_HEAD)
    tokens = next(heads, _ANY_VOCABULARY)
    for module, base in modules.items():
        if base.in_features == _ANY_VOCABULARY:
            modules[module] = replace(base, in_features=tokens)


def _module(name: str, parts: Mapping[Part, torch.Tensor]) -> BaseModule:
    weight = next(
        (parts[p] for p in (Part.WEIGHT, Part.SAVED_WEIGHT, Part.BASE_WEIGHT) if p in parts), None
    )
    kind = _kind(name, parts, weight)
    inputs, outputs = _features(kind, parts, weight)
    has_bias = not parts.keys().isdisjoint({Part.BIAS, Part.BASE_BIAS, Part.SAVED_BIAS})
    return BaseModule(kind, inputs, outputs, has_bias)


def _kind(name: str, parts: Mapping[Part, torch.Tensor], weight: torch.Tensor | None) -> ModuleKind:
    last = name.rpartition(".")[2]
    if last == "lm_head":
        return ModuleKind.LM_HEAD
    if last in ("embed_tokens", "wte") or not parts.keys().isdisjoint(
        {Part.EMBEDDING_A, Part.TOKENS}
    ):
        return ModuleKind.EMBEDDING
    return ModuleKind.NORM if weight is not None and weight.ndim == 1 else ModuleKind.LINEAR


def _features(
    kind: ModuleKind, parts: Mapping[Part, torch.Tensor], weight: torch.Tensor | None
) -> tuple[int, int]:
    """Features (in, out) that a module's tensors ask for."""
    a, b = (
        parts.get(Part.EMBEDDING_A, parts.get(Part.A)),
        parts.get(Part.EMBEDDING_B, parts.get(Part.B)),
    )
    if a is not None and b is not None and a.ndim == b.ndim == 2:
        return a.shape[1], b.shape[0]
    size = next(iter(parts.values())).numel()
    first, second = size, size
    if weight is not None and weight.ndim == 2:
        first, second = weight.shape
    elif Part.TOKENS in parts and parts[Part.TOKENS].ndim == 2:
        first, second = _ANY_VOCABULARY, parts[Part.TOKENS].shape[1]
    return (first, second) if kind is ModuleKind.EMBEDDING else (second, first)


def to_json(report: AdapterReport) -> dict[str, Any]:
    """The report as a dict for JSON, with totals."""
    return asdict(report) | {"total_bytes": _total(report), "ranks": _ranks(report)}


def render_text(report: AdapterReport) -> str:
    """The report for a terminal."""
    checked = (
        f"checked against {report.checked_against}"
        if report.checked_against
        else "not checked against a base"
    )
    lines = [
        f"{report.path}: {checked}",
        f"made for   {report.base_model_name or 'unknown'}",
        f"version    {report.version}",
        f"modules    {len(report.modules)} with {_total(report)} bytes, ranks {', '.join(map(str, _ranks(report)))}",
    ]
    if report.invocation_tokens:
        lines.append(
            f"activated  from the tokens {', '.join(map(str, report.invocation_tokens))} on"
        )
    if report.vocab_size:
        lines.append(f"vocabulary {report.vocab_size} tokens, not as many as the base's")
    if report.own_tokenizer:
        lines.append("tokenizer  its own")
    lines += [f"note       {note}" for note in report.notes]
    width = max((len(m.name) for m in report.modules), default=6)
    lines += ["", f"{'module':{width}}  {'rank':>5}  {'scaling':>9}  {'bytes':>12}  parts"]
    lines += [
        f"{m.name:{width}}  {m.rank:>5}  {m.scaling:>9.4g}  {m.num_bytes:>12}  {', '.join(m.parts)}"
        for m in report.modules
    ]
    return "\n".join(lines)


def _total(report: AdapterReport) -> int:
    return sum(m.num_bytes for m in report.modules)


def _ranks(report: AdapterReport) -> list[int]:
    return sorted({m.rank for m in report.modules if m.rank})
