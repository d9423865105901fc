"""Names of an adapter's tensors, as PEFT's versions and other tools write them, to places in the
base."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from ...errors import AdapterError, BaseMismatchError


class Part(StrEnum):
    """Role of a tensor in its module."""

    A = "lora_A"
    B = "lora_B"
    LORA_BIAS = "bias of lora_B"
    EMBEDDING_A = "lora_embedding_A"
    EMBEDDING_B = "lora_embedding_B"
    MAGNITUDE = "lora_magnitude_vector"
    TOKENS = "trainable_tokens_delta"
    TOKENS_BEFORE = "trainable_tokens_original"
    """The base's own rows, kept for unmerging."""
    WEIGHT = "weight"
    BIAS = "bias"
    BASE_WEIGHT = "weight of the base layer"
    """Weight of the module below the adapter: loading it writes into the base, through ties too."""
    BASE_BIAS = "bias of the base layer"
    SAVED_WEIGHT = "weight in modules_to_save"
    SAVED_BIAS = "bias in modules_to_save"


_NAME = r"(?:\.(?P<adapter>[^.]+))?"
_SUFFIXES = tuple(
    (re.compile(rf"(?P<path>.+?)\.{suffix}"), part)
    for suffix, part in (
        # The longer forms first: `weight` alone ends many of them.
        (rf"lora_A{_NAME}\.weight", Part.A),
        (rf"lora_B{_NAME}\.weight", Part.B),
        (rf"lora_B{_NAME}\.bias", Part.LORA_BIAS),
        (rf"lora_embedding_A{_NAME}", Part.EMBEDDING_A),
        (rf"lora_embedding_B{_NAME}", Part.EMBEDDING_B),
        (r"lora_magnitude_vector(?:\.weight)?", Part.MAGNITUDE),
        (rf"lora_magnitude_vector{_NAME}(?:\.weight)?", Part.MAGNITUDE),
        (rf"token_adapter\.trainable_tokens_delta{_NAME}", Part.TOKENS),
        (rf"token_adapter\.trainable_tokens_original{_NAME}", Part.TOKENS_BEFORE),
        # Modules inside a saved one: only there the name of the adapter is always part of the key.
        (r"modules_to_save\.(?P<adapter>[^.]+)\.(?P<rest>.+)\.weight", Part.SAVED_WEIGHT),
        (r"modules_to_save\.(?P<adapter>[^.]+)\.(?P<rest>.+)\.bias", Part.SAVED_BIAS),
        (r"original_module\.(?P<rest>.+)\.weight", Part.BASE_WEIGHT),
        (r"original_module\.(?P<rest>.+)\.bias", Part.BASE_BIAS),
        (rf"modules_to_save{_NAME}\.weight", Part.SAVED_WEIGHT),
        (rf"modules_to_save{_NAME}\.bias", Part.SAVED_BIAS),
        (r"(?:token_adapter\.base_layer|base_layer|original_module)\.weight", Part.BASE_WEIGHT),
        (r"(?:token_adapter\.base_layer|base_layer|original_module)\.bias", Part.BASE_BIAS),
        (r"weight", Part.WEIGHT),
        (r"bias", Part.BIAS),
    )
)
# torch.compile, activation checkpointing, FSDP; and DDP or DeepSpeed.
_WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}
_PARALLEL = "module"
_OTHER_MODALITIES = re.compile(
    r"(?:^|[._])(?:vision|visual|image|audio|mm|multi_modal|multimodal)(?:[._]|$)"
)


# How wrappers around a language model call it: most models that see, the hub's code, Qwen's Omni.
_LANGUAGE_MODELS = ("language_model", "text_model", "llm", "thinker")


def _names_of(path: str) -> Iterator[str]:
    """Names that models which can be trained give a base's module, from the base's own: each time
    as many, in the same order.

    Empty where such a model does not have the module: without its head (AutoModel), names begin
    behind their first piece, and the lm_head has none.
    """
    first, dot, rest = path.partition(".")
    yield path
    yield f"model.{path}"
    yield rest
    for wrapped in _LANGUAGE_MODELS:
        yield f"{first}.{wrapped}.{rest}" if dot else path
        yield f"{wrapped}.{path}"
        yield f"{wrapped}.{rest}" if dot else ""


@dataclass(frozen=True)
class Key:
    """One tensor's name, taken apart."""

    tensor: str
    path: str
    """Path of the module, as the model that was trained names it."""
    part: Part
    adapter: str
    """PEFT's name of the adapter where the key holds it, else empty."""


@dataclass(frozen=True)
class Layout:
    """Places of the tensors: their names by module of the base and part."""

    parts: Mapping[str, Mapping[Part, str]]
    names: Mapping[str, str]
    """Names in the model that was trained (the config's rules mean these), by module of the base:
    of those that it had."""


def parse_key(tensor: str) -> Key:
    """Take a tensor's name apart.

    Raises AdapterError for a name that is no part of a LoRA adapter.
    """
    name = ".".join(p for p in tensor.split(".") if p not in _WRAPPERS)
    for pattern, part in _SUFFIXES:
        if match := pattern.fullmatch(name):
            groups = match.groupdict()
            path = ".".join(filter(None, (groups["path"], groups.get("rest"))))
            return Key(tensor, _clean(path), part, groups.get("adapter") or "")
    raise AdapterError(f"tensor {tensor!r} is no part of a LoRA adapter: not supported")


def _clean(path: str) -> str:
    return ".".join(p for p in path.split(".") if p != _PARALLEL).removeprefix("base_model.model.")


def place(tensors: Iterable[str], modules: Iterable[str], made_for: str) -> Layout:
    """Find every tensor's place among the base's `modules`.

    Raises AdapterError for names that are not understood, for two tensors in one place and for
    parts of other modalities; BaseMismatchError for modules that the base lacks, with `made_for` as
    the explanation.
    """
    tensors, modules = list(tensors), list(modules)
    if len(tensors) > len(modules) * len(Part):  # before each name is looked at
        raise BaseMismatchError(
            f"{len(tensors)} tensors are more than the base's {len(modules)} modules can have: "
            f"{made_for}"
        )
    keys = _parse(tensors)
    return _place(keys, _names(keys, modules), made_for)


def place_alone(tensors: Iterable[str]) -> Layout:
    """Find the tensors' places as `place` does, for a base of just the modules that they name."""
    keys = _parse(tensors)
    return _place(keys, {key.path: key.path for key in keys}, "")


def _parse(tensors: Iterable[str]) -> list[Key]:
    keys = [parse_key(tensor) for tensor in tensors]
    if len(adapters := sorted({k.adapter for k in keys} - {""})) > 1:
        raise AdapterError(
            f"the tensors belong to several adapters: {', '.join(map(repr, adapters[:4]))}"
        )
    return keys


def _place(keys: list[Key], names: Mapping[str, str], made_for: str) -> Layout:
    bases = {name: module for module, name in names.items()}
    parts: dict[str, dict[Part, str]] = {}
    for key in keys:
        if key.path not in bases:
            raise _no_place(key, made_for)
        taken = parts.setdefault(bases[key.path], {})
        if key.part in taken:
            raise AdapterError(
                f"tensors {taken[key.part]!r} and {key.tensor!r} are the same part of one module"
            )
        taken[key.part] = key.tensor
    return Layout(parts, names)


def _names(keys: list[Key], modules: list[str]) -> dict[str, str]:
    """The one way of naming modules that fits most of the keys: the base's own, or a wrapper's, or
    that of the model without its head."""
    paths = {k.path for k in keys}
    ways = zip(*map(_names_of, modules), strict=True)
    candidates = [{m: n for m, n in zip(modules, names, strict=True) if n} for names in ways]
    # Names that stand for two modules are those of no model.
    found = [names for names in candidates if len(set(names.values())) == len(names)]
    return max(found, key=lambda names: len(paths.intersection(names.values())))


def _no_place(key: Key, made_for: str) -> AdapterError:
    if _OTHER_MODALITIES.search(key.path):
        return AdapterError(
            f"tensor {key.tensor!r} is not of the language model: other modalities are not supported"
        )
    if key.path.rpartition(".")[2].startswith("lora_"):
        return AdapterError(f"tensor {key.tensor!r} is a part of LoRA that is not supported")
    return BaseMismatchError(
        f"module {key.path!r} is none of the base model that an adapter can change: {made_for}"
    )
