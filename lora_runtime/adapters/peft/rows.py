"""Rows of the vocabulary in an adapter's tensors: as many as the base's, more, or fewer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from ...errors import AdapterError
from ...modules import BaseModule, ModuleKind
from .keys import Part

_WEIGHTS = (Part.WEIGHT, Part.SAVED_WEIGHT, Part.BASE_WEIGHT)
_OF_EMBEDDING = dict.fromkeys(_WEIGHTS, 0) | {Part.EMBEDDING_A: 1}
_OF_HEAD = dict.fromkeys(_WEIGHTS, 0) | dict.fromkeys(
    (
        Part.B,
        Part.LORA_BIAS,
        Part.MAGNITUDE,
        Part.BIAS,
        Part.BASE_BIAS,
        Part.SAVED_BIAS,
    ),
    0,
)
"""The dimension that is the vocabulary, by part."""


def added_rows(
    modules: Mapping[str, BaseModule],
    parts: Mapping[str, Mapping[Part, str]],
    tensors: Mapping[str, torch.Tensor],
    tokens: Mapping[str, Sequence[int]],
    limit: int,
) -> int:
    """Rows that the adapter has beyond the base's vocabulary; below 0 where it has fewer.

    transformers resizes embeddings and lm_head together, so all tensors must agree; where none
    says, trained `tokens` beyond the base's vocabulary do. Raises AdapterError for tensors that
    differ, and for more rows than `limit`.
    """
    found: dict[int, tuple[int, str]] = {}
    for name, rows, own in _found(modules, parts, tensors):
        found.setdefault(rows - own, (rows, name))
    if len(found) > 1:
        of = ", ".join(f"{rows} in {name!r}" for rows, name in sorted(found.values()))
        raise AdapterError(f"the adapter's tensors do not have one number of rows: {of}")
    base = max((m.rows for m in modules.values() if m.is_vocabulary), default=0)
    highest = max((max(ids) for ids in tokens.values()), default=-1)
    count = next(iter(found), max(0, highest + 1 - base))
    if count > limit:
        raise AdapterError(
            f"the adapter adds {count} tokens to the base's vocabulary, max_added_tokens is {limit}"
        )
    return count


def _found(
    modules: Mapping[str, BaseModule],
    parts: Mapping[str, Mapping[Part, str]],
    tensors: Mapping[str, torch.Tensor],
) -> Iterator[tuple[str, int, int]]:
    """Tensors that have the vocabulary as a dimension, its size, and that in the base's module: the
    embeddings of some have rows that their head has not."""
    for module, names in parts.items():
        if not modules[module].is_vocabulary:
            continue
        embedding = modules[module].kind is ModuleKind.EMBEDDING
        dimensions = _OF_EMBEDDING if embedding else _OF_HEAD
        for part, name in names.items():
            dimension = dimensions.get(part)
            # What has other dimensions is refused by its shape.
            if dimension is not None and tensors[name].ndim > dimension:
                yield name, tensors[name].shape[dimension], modules[module].rows
