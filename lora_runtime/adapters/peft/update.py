"""Changes that an adapter makes in the base, by module, as read from its files and before any
device sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ...api.adapters import AppliedModule


@dataclass(frozen=True)
class ModuleUpdate:
    """An adapter's change of one module.

    Tensors are on the host, in the file's dtype, finite, of checked shape. Linear maps: y = W x + b
    becomes y = b' + g * (W' x + scaling * (B (A x) + lora_bias)), where W' is `weight` or the
    base's, b' is `bias` or the base's, and g is 1 or, for DoRA (arXiv:2402.09353), magnitude / ||W'
    + scaling B A||, the norm over each output's inputs. Embeddings: the row of token t is W'[t] +
    scaling * B A[:, t], with g per column as PEFT has it. Norms take `weight` and `bias` alone.
    `token_rows` replace the weight's rows `token_ids` (of an embedding, and of an lm_head tied to
    it).
    """

    a: torch.Tensor | None = None
    """LoRA's A: (r, in)."""
    b: torch.Tensor | None = None
    """LoRA's B: (out, r)."""
    scaling: float = 1.0
    lora_bias: torch.Tensor | None = None
    """Bias of LoRA: (out,), added to B (A x) before scaling."""
    magnitude: torch.Tensor | None = None
    """Magnitude of DoRA, its m: (out,); of an embedding (width,)."""
    weight: torch.Tensor | None = None
    """Weight that replaces the base's; in the layout of the base's own (transposed for Conv1D)."""
    bias: torch.Tensor | None = None
    """Bias that replaces the base's: (out,)."""
    token_ids: tuple[int, ...] = ()
    token_rows: torch.Tensor | None = None
    """Rows that replace the weight's rows `token_ids`: (len(token_ids), width)."""
    rows: int = 0
    """Rows of an embedding or lm_head where they are not the base's number, else 0: the base's first
    so many, or all and the mean of them for each more (transformers' resize_token_embeddings)."""
    fixed_weight: bool = False
    """True if `weight` must be the base's own: rows before activated LoRA starts have the base's."""

    @property
    def rank(self) -> int:
        return 0 if self.a is None else self.a.shape[0]


@dataclass(frozen=True)
class CheckedAdapter:
    """One adapter directory, read once, every tensor and field accounted for."""

    version: str
    """Version of the adapter: hex SHA-256 of the base's identity and of the adapter's files."""
    base_model_name: str
    updates: Mapping[str, ModuleUpdate]
    """Updates by module path, as the base names it."""
    modules: tuple[AppliedModule, ...]
    """Report of what was applied where."""
    invocation_tokens: tuple[int, ...] = ()
    """Tokens of activated LoRA (arXiv:2504.12397): the adapter works from their last occurrence in
    the prompt on."""
    vocab_size: int = 0
    """Rows of the adapter's embeddings where they are more or fewer than the base's, else 0."""
    tokenizer: Any = None
    """The adapter's own tokenizer, where it differs from the base's."""
    eos_ids: frozenset[int] = frozenset()
    """Ends of a sequence beside the base's: its tokenizer's and its generation config's."""
    turn_ends: frozenset[int] = frozenset()
    """Tokens that end a turn of its own tokenizer's chat template, and no sequence."""
    notes: tuple[str, ...] = field(default=())
    """Notes on what was accepted and has no effect at inference, such as lora_dropout."""
    warnings: tuple[str, ...] = ()
    """Those of the notes that are told as warnings: it may not do what it was made for."""
