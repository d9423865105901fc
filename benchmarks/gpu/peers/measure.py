"""A variant against float64, and its time against the bytes that it cannot do without."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.gpu.cost import linear_cost, lora_cost
from benchmarks.gpu.errors import SLACK, relative_error
from benchmarks.gpu.machine import Ceilings, host_seconds, seconds
from benchmarks.gpu.timing import beside_floor

from .inputs import Inputs
from .variant import Variant


def check(variant: Variant, inputs: Inputs) -> dict[str, Any]:
    """Relative root-mean-square errors from float64, of the variant and of torch; `good`: within
    SLACK times that, or times a rounding of the output."""
    truth = inputs.truth
    exact, reference = (
        (truth.whole, truth.whole_error) if variant.adapts else (truth.base, truth.base_error)
    )
    for scratch in variant.scratch:
        scratch.fill_(torch.nan)
    for _ in range(2):  # what results are likely to be put into
        torch.full_like(exact, torch.nan, dtype=inputs.x.dtype)
    error = relative_error(variant.whole(inputs.layers - 1), exact)
    rounding = torch.finfo(inputs.x.dtype).eps / 2
    return {
        "error": error,
        "reference": reference,
        "rounding": rounding,
        "good": error <= SLACK * max(reference, rounding),
    }


def times(
    variant: Variant, inputs: Inputs, top: Ceilings, device: torch.device, repeats: int
) -> dict[str, Any]:
    """Microseconds of a layer: all of it, and with `lora_` the adapters' part alone; the least at
    the ceilings `top`, and the bandwidth that the least bytes were moved with."""
    place, adapters, size = inputs.place, inputs.adapters, inputs.x.itemsize
    base = linear_cost(len(inputs.x), place.inputs, place.width, size)
    lora = lora_cost(
        inputs.counts, [adapters.rank] * adapters.slots, place.inputs, place.outs, size
    )
    if not variant.captured:
        taken = host_seconds(lambda: variant.whole(inputs.layers - 1), device, repeats)
        return {**beside_floor(taken, base + lora, top), "launches_included": True}
    layers = range(inputs.layers)
    taken = (
        seconds(lambda: [variant.whole(layer) for layer in layers], device, repeats) / inputs.layers
    )
    row = beside_floor(taken, base + lora if variant.adapts else base, top)
    if (alone := variant.lora) is not None:
        y = inputs.base(0)
        taken = (
            seconds(lambda: [alone(layer, y) for layer in layers], device, repeats) / inputs.layers
        )
        row |= {f"lora_{name}": value for name, value in beside_floor(taken, lora, top).items()}
    return row
