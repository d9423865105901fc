"""Products of one row with its adapter's matrix, without tensor cores: BGMV of Punica
(arXiv:2310.18547), in Triton.

The shrink has a program for each row and rank, the expand for each row and 512 outputs. Rows that
share an adapter read its weights once each, from L2 if they are lucky.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch.nn import functional as F

from benchmarks.gpu.places import SCALING

from .inputs import Inputs
from .variant import Variant, behind_base

_OUTPUTS = 512
_INPUTS = 1024
"""Of a row of A at a time."""


@triton.jit
def _shrink(h, x, x_row, a, slots, inputs, RANKS: tl.constexpr, INPUTS: tl.constexpr):
    """Program (row, j): h[row, j] = A[slot, j] x[row]; RANKS are those of all projections."""
    row, j = tl.program_id(0), tl.program_id(1)
    k = tl.arange(0, INPUTS)
    weights = a + (tl.load(slots + row).to(tl.int64) * RANKS + j) * inputs
    sums = tl.zeros((INPUTS,), tl.float32)
    for k0 in tl.range(0, inputs, INPUTS, num_stages=3):
        inside = k0 + k < inputs
        left = tl.load(x + row * x_row + k0 + k, inside, 0).to(tl.float32)
        sums += left * tl.load(weights + k0 + k, inside, 0).to(tl.float32)
    tl.store(h + row * RANKS + j, tl.sum(sums, 0))


@triton.jit
def _expand(
    y,
    y_row,
    h,
    h_row,
    h_slot,
    b,
    slots,
    projections,
    width,
    scaling,
    RANK: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """Program (row, block): y[row, block] += scaling B[slot, block] h; h of the slot is at `h_slot`
    times slot."""
    row, block = tl.program_id(0), tl.program_id(1)
    slot = tl.load(slots + row).to(tl.int64)
    r, n = tl.arange(0, RANK), block * OUTPUTS + tl.arange(0, OUTPUTS)
    at = y + row.to(tl.int64) * y_row + n
    old = tl.load(at).to(tl.float32)
    weights = tl.load(b + ((slot * width + n)[:, None] * RANK + r[None, :])).to(tl.float32)
    ranks = h + row.to(tl.int64) * h_row + slot * h_slot + tl.load(projections + block) * RANK
    added = tl.sum(weights * tl.load(ranks + r).to(tl.float32)[None, :], 1)
    tl.store(at, (old + scaling * added).to(y.dtype.element_ty))


class _Bgmv:
    """The kernels at a case. The rank must be a power of two, and the outputs multiples of a
    block's."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs, self.outs = inputs, inputs.place.outs
        self.outputs = min(_OUTPUTS, *(out & -out for out in self.outs))
        blocks = torch.tensor([out // self.outputs for out in self.outs])
        self.projections = (
            torch.arange(len(blocks), dtype=torch.int32)
            .repeat_interleave(blocks)
            .to(inputs.x.device)
        )
        self.ranks = len(self.outs) * inputs.adapters.rank
        self.hidden = inputs.x.new_empty(len(inputs.x), self.ranks, dtype=torch.float32)

    def shrink(self, layer: int) -> None:
        """Into `hidden` (T, projections * rank)."""
        given: Any = self.inputs
        _shrink[(len(given.x), self.ranks)](
            self.hidden,
            given.x,
            given.x.stride(0),
            given.adapters.a[layer],
            given.slots,
            given.place.inputs,
            self.ranks,
            _INPUTS,
        )

    def expand(self, layer: int, y: torch.Tensor, h: torch.Tensor, per_slot: bool) -> None:
        """`h`: of each row's own slot, or of every slot, behind each other."""
        given: Any = self.inputs
        _expand[(len(given.x), len(self.projections))](
            y,
            y.stride(0),
            h,
            h.stride(0),
            self.ranks if per_slot else 0,
            given.adapters.b[layer],
            given.slots,
            self.projections,
            given.place.width,
            SCALING,
            given.adapters.rank,
            self.outputs,
        )


def bgmv(inputs: Inputs) -> Variant:
    kernels = _Bgmv(inputs)

    def lora(layer: int, y: torch.Tensor) -> None:
        kernels.shrink(layer)
        kernels.expand(layer, y, kernels.hidden, per_slot=False)

    return behind_base(inputs, lora, kernels.hidden)


def dense(inputs: Inputs) -> Variant:
    """x times A of all slots, as one product: cuBLAS's bandwidth, and work for slots that a row
    does not take."""
    kernels = _Bgmv(inputs)

    def lora(layer: int, y: torch.Tensor) -> None:
        kernels.expand(
            layer, y, F.linear(inputs.x, inputs.adapters.a[layer].flatten(0, 1)), per_slot=True
        )

    return behind_base(inputs, lora)


def stacked(inputs: Inputs) -> Variant:
    """The same within the base's own product, which needs no launch: A of all slots lies below the
    base's weight."""
    kernels, width = _Bgmv(inputs), inputs.place.width

    def whole(layer: int) -> torch.Tensor:
        both = F.linear(inputs.x, inputs.stacked[layer])
        y = both[:, :width]
        kernels.expand(layer, y, both[:, width:], per_slot=True)
        return y

    return Variant(whole)
