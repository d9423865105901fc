"""What an adapter changes in a module, ready to compute with, and how rows take it: the torch
reference.

Rows under several adapters with weights w_i get base + sum w_i (adapter_i - base), module by
module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import nn
from torch.func import functional_call

from ..modules import ModuleKind
from .lora import LoraSegment
from .pieces import pieces

MAX_RANK = 4096
"""The highest rank that an adapter may have in a module: the C++ kernels have no scratch for more
(csrc/program.h)."""


@dataclass(frozen=True)
class ModuleDelta:
    """One adapter's change of one module: DoRA's norms are taken, its gains folded into what they
    scale.

    `dtype` is the base's. Of an embedding the outputs are its tokens, where it says so.
    """

    kind: ModuleKind
    out: int
    """Outputs, of an embedding tokens: more or fewer than the base's where the adapter
    has other rows."""
    a: torch.Tensor | None = None
    """(r, in) in `dtype`; of an embedding (tokens, r)"""
    b: torch.Tensor | None = None
    """(out, r) in `dtype`; of an embedding (width, r)"""
    scaling: float = 1.0
    gain: torch.Tensor | None = None
    """(out,) float32, at least the base's outputs: DoRA's g - 1 for its own product; of an embedding
    (width,)"""
    bias: torch.Tensor | None = None
    """(out,) float32: added"""
    dense: torch.Tensor | None = None
    """(out, in) in `dtype`: takes the place of the base's weight; of a norm (width,) float32: added
    to it"""
    token_ids: torch.Tensor | None = None
    """(tokens,) int32, ascending"""
    token_rows: torch.Tensor | None = None
    """(tokens, width) float32: added to these rows of the weight"""

    def tensors(self) -> dict[str, torch.Tensor]:
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> ModuleDelta:
        """The same with every tensor changed, such as moved to a device."""
        return replace(self, **{name: change(tensor) for name, tensor in self.tensors().items()})  # type: ignore[arg-type]

    @property
    def rank(self) -> int:
        return 0 if self.b is None else self.b.shape[1]

    @property
    def rescales(self) -> bool:
        """Whether the base's own product does not stay as it is."""
        return self.gain is not None or self.dense is not None


@dataclass(frozen=True)
class UpdateSegment:
    """Rows `start:end` take `weight` times one adapter's change of one module. Segments may
    overlap."""

    start: int
    end: int
    delta: ModuleDelta
    weight: float


AddLora = Callable[[torch.Tensor, torch.Tensor, Sequence[LoraSegment]], None]
Changes = Sequence[tuple[ModuleDelta, float]]
"""Adapters' changes of one module and their weights, in the order in which they are added up."""


def apply_linear(
    y: torch.Tensor, x: torch.Tensor, changes: Changes, bias: torch.Tensor | None
) -> torch.Tensor:
    """`y` (T, out) = W x + `bias` of `x` (T, in), float32 → the same rows under `changes`, none of
    which adds outputs.

    The LoRA, DoRA and bias update of a linear map, with weights w_i of changes i: y' = bias + f *
    (y - bias) + sum w_i * (scaling_i * B_i (A_i x) + bias_i + dense_i x), f = 1 + sum w_i * gain_i
    - sum w_i * [i has dense]; where f is 0 the old value goes even if it is not finite.
    """
    added = torch.zeros_like(y)
    for delta, weight in changes:
        if delta.a is not None and delta.b is not None:
            added += weight * delta.scaling * (x @ delta.a.float().t() @ delta.b.float().t())
        if delta.bias is not None:
            added += weight * delta.bias
        if delta.dense is not None:
            added += weight * (x @ delta.dense.float().t())
    return _kept(y, changes, bias) + added


def update_linear(
    y: torch.Tensor,
    x: torch.Tensor,
    segments: Sequence[UpdateSegment],
    bias: torch.Tensor | None,
    add_lora: AddLora,
) -> torch.Tensor:
    """`y` (T, out) = W x + `bias` of `x` (T, in) → the adapters', in place or wider by the tokens
    that they added.

    What apply_linear says, in the base's dtype and rounded term by term, as PEFT does: LoRA of all
    segments, then what else is added. These are the bits of the torch backend, so the sum is not
    apply_linear's own.
    """
    widest = max(s.delta.out for s in segments)
    if widest > y.shape[1]:
        y = torch.cat([y, y.new_zeros(y.shape[0], widest - y.shape[1])], 1)
    if any(s.delta.rescales for s in segments):
        for start, end, covering in pieces(segments):
            changes = [(s.delta, s.weight) for s in covering]
            if any(delta.rescales for delta, _ in changes):
                y[start:end] = _rescaled(y[start:end].float(), x[start:end], changes, bias).to(
                    y.dtype
                )
    for out in {s.delta.out for s in segments}:
        add_lora(
            y[:, :out],
            x,
            [
                LoraSegment(s.start, s.end, s.delta.a, s.delta.b, s.delta.scaling * s.weight)
                for s in segments
                if s.delta.out == out and s.delta.a is not None and s.delta.b is not None
            ],
        )
    for s in segments:
        delta, rows = s.delta, slice(s.start, s.end)
        if delta.bias is not None:
            y[rows, : delta.out] += (s.weight * delta.bias).to(y.dtype)
        if delta.token_ids is not None and delta.token_rows is not None:
            y[rows, delta.token_ids] += (s.weight * (x[rows].float() @ delta.token_rows.t())).to(
                y.dtype
            )
    return y


def _rescaled(
    y: torch.Tensor, x: torch.Tensor, changes: Changes, bias: torch.Tensor | None
) -> torch.Tensor:
    """What is kept of the base's product, and the weights that take its place."""
    y = _kept(y, changes, bias)
    for delta, weight in changes:
        if delta.dense is not None:
            y[:, : delta.out] += weight * (x @ delta.dense.t()).float()
    return y


def _kept(y: torch.Tensor, changes: Changes, bias: torch.Tensor | None) -> torch.Tensor:
    """bias + f * (y - bias) of apply_linear: `y` itself if no change rescales. `bias` may be
    shorter than y's rows."""
    if not any(delta.rescales for delta, _ in changes):
        return y
    factor = torch.ones(y.shape[1], device=y.device)
    base = torch.zeros_like(factor)
    if bias is not None:
        base[: len(bias)] = bias.float()
    for delta, weight in changes:
        if delta.dense is not None:
            factor -= weight
        elif delta.gain is not None:
            factor[: len(delta.gain)] += weight * delta.gain
    return base + keep(factor, y - base)


def keep(factor: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The product of the two, and 0 where the factor is 0 even if the value is not finite: it is
    replaced."""
    return torch.where(factor == 0, 0, factor * value)


def update_embedding(
    y: torch.Tensor, tokens: torch.Tensor, segments: Sequence[UpdateSegment], scale: float
) -> torch.Tensor:
    """`y` (T, width) = `scale` times the base's rows of `tokens` (T,) → the adapters'."""
    out = y.float()
    for start, end, covering in pieces(segments):
        ids = tokens[start:end]
        factor, added = torch.ones(y.shape[1], device=y.device), torch.zeros_like(out[start:end])
        for s in covering:
            if s.delta.dense is not None:
                factor -= s.weight
            elif s.delta.gain is not None:
                factor += s.weight * s.delta.gain
            added += s.weight * _embedded(s.delta, ids, y.shape[1])
        out[start:end] = keep(factor, out[start:end]) + scale * added
    return out.to(y.dtype)


def _embedded(delta: ModuleDelta, ids: torch.Tensor, width: int) -> torch.Tensor:
    """(T, width) float32: what the adapter adds for these tokens; 0 for those that it does not
    have."""
    known, inside = ids < delta.out, ids.clamp(max=delta.out - 1)
    added = torch.zeros(len(ids), width, device=ids.device)
    if delta.dense is not None:
        added += delta.dense[inside].float()
    if delta.a is not None and delta.b is not None:
        added += delta.scaling * (delta.a[inside] @ delta.b.t()).float()
    if delta.token_ids is not None and delta.token_rows is not None:
        row, at = (ids[:, None] == delta.token_ids).nonzero(as_tuple=True)
        added[row] += delta.token_rows[at]
    return torch.where(known[:, None], added, 0)


def update_norm(
    y: torch.Tensor, x: torch.Tensor, segments: Sequence[UpdateSegment], norm: nn.Module, dim: int
) -> torch.Tensor:
    """`y` = norm(`x`), rows along `dim` → with the adapters' weights and biases, in place."""
    for start, end, covering in pieces(segments):
        changed = {name: parameter.float() for name, parameter in norm.named_parameters()}
        for s in covering:
            for name, delta in (("weight", s.delta.dense), ("bias", s.delta.bias)):
                if delta is not None:
                    changed[name] = changed[name] + s.weight * delta
        changed = {name: tensor.to(y.dtype) for name, tensor in changed.items()}
        y.narrow(dim, start, end - start).copy_(
            functional_call(norm, changed, (x.narrow(dim, start, end - start),))
        )
    return y
