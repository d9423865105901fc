"""The modules of a base that adapters may change: what loader, kernels and backends agree on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol


class ModuleKind(StrEnum):
    """Kind of a module of the base: what it computes; decides which updates it can take."""

    LINEAR = "linear"
    """A projection of a layer."""
    LM_HEAD = "lm_head"
    """The output embeddings: a linear map of hidden states to the vocabulary."""
    EMBEDDING = "embedding"
    """The token embeddings."""
    NORM = "norm"
    """RMSNorm or LayerNorm, of a layer, of heads, or the last one."""


@dataclass(frozen=True)
class BaseModule:
    """Shape of one module of the base that an adapter may change.

    Linear maps: `in_features` → `out_features` whatever the layout of the weight (Conv1D keeps (in,
    out)). Embeddings: `in_features` is the vocabulary, `out_features` the width. Norms: both are
    the width.
    """

    kind: ModuleKind
    in_features: int
    out_features: int
    has_bias: bool
    transposed: bool = False
    """True for a weight (in, out): Conv1D."""
    tied_to: str = ""
    """Embedding whose weight a tied lm_head shares; else empty."""
    refusal: str = ""
    """How the base calls it, where that leaves no way to tell which rows are whose: no adapter may
    change it then. Known once the base has run."""

    @property
    def is_vocabulary(self) -> bool:
        """True for embeddings and lm_head, which have a row by token."""
        return self.kind in (ModuleKind.EMBEDDING, ModuleKind.LM_HEAD)

    @property
    def rows(self) -> int:
        """Rows of the weight as (out, in), of an embedding as (tokens, width)."""
        return self.in_features if self.kind is ModuleKind.EMBEDDING else self.out_features

    @property
    def columns(self) -> int:
        return self.out_features if self.kind is ModuleKind.EMBEDDING else self.in_features


class BaseDescription(Protocol):
    """Description of a base: what checking an adapter needs to know of it, without its weights."""

    @property
    def name(self) -> str: ...
    @property
    def identity(self) -> str: ...
    @property
    def modules(self) -> Mapping[str, BaseModule]: ...
    @property
    def tokenizer(self) -> Any:
        """Tokenizer of the base; None where it is not known: an adapter's own is not looked at."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Ends of the base's sequences."""
