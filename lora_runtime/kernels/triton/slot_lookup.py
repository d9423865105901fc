"""The place where kernels find a slot's tensors: its row of the slot table."""

from __future__ import annotations

import triton
import triton.language as tl

A, B, GAIN, BIAS, DENSE = (tl.constexpr(i) for i in range(5))
"""Fields of the table's addresses."""
FIELDS = tl.constexpr(5)


@triton.jit
def address(addresses, modules, slot, field, module, TYPE: tl.constexpr):
    """Whether there is a tensor, and where it lies: placed adapters are aligned to 256 bytes, so
    loads are wide."""
    at = tl.load(addresses + (slot.to(tl.int64) * FIELDS + field) * modules + module)
    return at != 0, tl.multiple_of(at.to(tl.pointer_type(TYPE)), 16)


@triton.jit
def ranks_before(module, slot, ranks, modules, first, MODULES: tl.constexpr):
    """The sum of the ranks of the group's modules before this one: where its part of a pair's
    `hidden` begins."""
    before = tl.arange(0, triton.next_power_of_2(MODULES))
    return tl.sum(tl.load(ranks + slot * modules + first + before, before < module, 0))
