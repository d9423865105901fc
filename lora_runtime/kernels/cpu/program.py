"""A frozen model as a list of C++ ops, built once and run with one call per step."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch

from .library import AttentionShape, Embedding, Linear, Norm, Step, byref, is_bf16, load
from .weights import PackedLinear

LOGITS = 0
"""The buffer of the program's result, (rows that sample, vocabulary) in float32."""


class Activation(IntEnum):
    SILU = 0
    GELU_TANH = 1


@dataclass(frozen=True)
class LinearPart:
    """One of the linears that read the same input; `module` is its row in the adapters' tables, -1
    for none."""

    packed: PackedLinear
    module: int
    column: int


@dataclass(frozen=True)
class NormWeights:
    """RMSNorm (arXiv:1910.07467) where `rms`, else LayerNorm; `weight`, `bias`: (width,) float32;
    `module` as above."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    eps: float
    rms: bool
    module: int = -1


class Program:
    """Ops run in the order in which they are added; buffers are numbers, (rows, width) each.

    `dtype` is that of the weights and of the buffers that linears read; sums are float32. Keeps all
    tensors that the ops point to.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.library = load()
        self.dtype = dtype
        self._bf16 = is_bf16(dtype)
        self._pointer = self.library.lm_new(self._bf16)
        self._kept: list[Any] = []
        # Not at the interpreter's exit: an engine thread may still be in `run` then.
        weakref.finalize(self, self.library.lm_delete, self._pointer).atexit = False
        self.names: list[str] = []
        """What each op is, in the order of `times`."""

    def buffer(self, width: int, *, floats: bool = False, sampled: bool = False) -> int:
        """`floats`: float32 instead of `dtype`; `sampled`: one row per row that samples."""
        return int(self.library.lm_buffer(self._pointer, width, floats, sampled))

    def embed(
        self,
        out: int,
        *,
        rows: torch.Tensor | None,
        tied: PackedLinear | None,
        scale: float = 1.0,
        positions: torch.Tensor | None = None,
        module: int = -1,
    ) -> None:
        """Token embeddings from `rows` (vocab, width) or from the packed lm_head; plus `positions`
        (P, width)."""
        head = tied.struct() if tied is not None else Linear()
        tokens = len(rows) if rows is not None else head.n
        self._add("embed", rows, tied, positions)
        self.library.lm_embed(
            self._pointer,
            out,
            byref(Embedding(_pointer(rows), scale, module, _pointer(positions), tokens, 0, head)),
        )

    def norm(
        self, source: int, width: int, out: int, weights: NormWeights, *, add: bool = False
    ) -> None:
        """out = norm(source), or out += norm(source)."""
        self._add("norm", weights)
        self.library.lm_norm(self._pointer, source, width, out, add, byref(_norm(weights)))

    def linear(
        self, name: str, source: int, out: int, parts: Sequence[LinearPart], *, add: bool = False
    ) -> None:
        """Each part's W x (plus bias and LoRA) into `out` from its column on, or added to it."""
        structs = (Linear * len(parts))(*(p.packed.struct(p.module, p.column) for p in parts))
        self._add(name, parts)
        self.library.lm_linear(self._pointer, source, out, add, structs, len(parts))

    def attention(
        self,
        source: int,
        queries: int,
        out: int,
        layer: int,
        shape: AttentionShape,
        norms: tuple[NormWeights, NormWeights] | None,
        cosines: torch.Tensor | None,
        sines: torch.Tensor | None,
    ) -> None:
        """Attend, from q, k, v side by side in `source`: norms of q and k, rotation, KV write,
        attention.

        `cosines`, `sines`: (positions, rotary / 2) float32.
        """
        q_norm, k_norm = (byref(_norm(n)) for n in norms) if norms else (None, None)
        rotary = 2 * cosines.shape[1] if cosines is not None else 0
        self._add("attention", norms, cosines, sines)
        self.library.lm_attention(
            self._pointer,
            source,
            queries,
            out,
            layer,
            byref(shape),
            q_norm,
            k_norm,
            rotary,
            _pointer(cosines),
            _pointer(sines),
        )

    def activate(
        self, activation: Activation, source: int, gate: int, up: int | None, width: int, out: int
    ) -> None:
        """out = act(columns from `gate`) * columns from `up` of `source`."""
        self._add("activation")
        self.library.lm_activate(
            self._pointer, activation, source, gate, -1 if up is None else up, width, out
        )

    def gather(self, source: int, out: int) -> None:
        """The rows that sample."""
        self._add("gather")
        self.library.lm_gather(self._pointer, source, out)

    def argmax(self, softcap: float | None, added: int = 0) -> None:
        """Caps the logits and finds each row's largest: Step.greedy, -1 for a row with NaN.

        Logits have `added` more columns than the lm_head, -inf where the row's adapters do not have
        that token.
        """
        self._add("argmax")
        self.library.lm_argmax(self._pointer, softcap or 0.0, added)

    def run(self, step: Step) -> None:
        """Run one step; releases the GIL. `step` and what it points to must live until it returns."""
        self.library.lm_run(self._pointer, byref(step))

    def times(self) -> list[float]:
        """Seconds spent in each op since the last call; the first call switches the clock on."""
        seconds = (ctypes.c_double * len(self.names))()
        self.library.lm_times(self._pointer, seconds)
        return list(seconds)

    def _add(self, name: str, *kept: Any) -> None:
        self.names.append(name)
        self._kept.extend(kept)


def _pointer(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _norm(weights: NormWeights) -> Norm:
    return Norm(
        _pointer(weights.weight), _pointer(weights.bias), weights.eps, weights.rms, weights.module
    )
