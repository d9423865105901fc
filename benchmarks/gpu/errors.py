"""How far the kernels' results are from float64, beside how far torch's references are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from benchmarks.gpu.cost import Shape
from benchmarks.gpu.inputs import AttentionInputs, LoraInputs, attention_inputs, lora_inputs
from lora_runtime.kernels import PlannedKernels
from lora_runtime.kernels.attention import paged_attention_reference
from lora_runtime.kernels.fused_update import update_group_reference

SLACK = 4.0
"""A kernel may be this many times as far off as the reference in the same dtype, or as one rounding
of the output."""
SHAPE = Shape("errors", 96, 160, 1, 6, 2, 24, 64)
WIDE = Shape("errors-wide", 1024, 2816, 1, 16, 4, 128, 64)


def compare(
    kernels: PlannedKernels, device: torch.device, dtypes: Sequence[torch.dtype], wide: bool
) -> Iterator[dict[str, object]]:
    """A row per kernel and dtype; `good` says whether the kernel keeps within SLACK."""
    shape = WIDE if wide else SHAPE
    inputs, outs = shape.hidden, [shape.heads * shape.head_dim, shape.hidden // 2]
    for dtype in dtypes:
        for name, rows in (("decode", [1, 1, 1, 1]), ("prefill", [5, 40, 1, 70])):
            for dora in (False, True):
                given = lora_inputs(
                    inputs,
                    outs,
                    rows,
                    [3, 16, 33, 8],
                    layers=1,
                    dtype=dtype,
                    device=device,
                    dora=dora,
                )
                yield _row(f"lora {name}{' dora' if dora else ''}", dtype, *_lora(kernels, given))
        for name, new, contexts in (
            ("decode", [1, 1, 1], [5, 64, 33]),
            ("prefill", [7, 40], [7, 61]),
        ):
            attention = attention_inputs(shape, new, contexts, layers=1, dtype=dtype, device=device)
            for window, softcap in ((None, None), (20, 10.0)):
                label = f"attention {name}{' window softcap' if window else ''}"
                yield _row(label, dtype, *_attention(kernels, attention, window, softcap))


def _row(name: str, dtype: torch.dtype, error: float, reference: float) -> dict[str, object]:
    rounding = torch.finfo(dtype).eps / 2
    return {
        "name": name,
        "dtype": str(dtype).removeprefix("torch."),
        "error": error,
        "reference": reference,
        "rounding": rounding,
        "good": error <= SLACK * max(reference, rounding),
    }


def _lora(kernels: PlannedKernels, given: LoraInputs) -> tuple[float, float]:
    def run(update: Callable[..., None]) -> torch.Tensor:
        y = given.y.clone()
        given.plan.hidden.fill_(torch.nan)
        update(y, given.x, given.groups[0], given.plan, given.table)
        return y

    exact = exact_lora(given)
    return relative_error(run(kernels.update_group), exact), relative_error(
        run(update_group_reference), exact
    )


def exact_lora(given: LoraInputs) -> torch.Tensor:
    """The definition, pair by pair, in float64."""
    x, y, group = given.x.double(), given.y.double(), given.groups[0]
    for start, end, pairs in given.plan.tiles():
        column = 0
        for module, out in enumerate(group.outs, group.first):
            old, added, factor = y[start:end, column : column + out].clone(), 0.0, 1.0
            for slot, weight in pairs:
                delta = given.table.tensors(slot, module)
                assert delta is not None
                assert delta.a is not None
                assert delta.b is not None
                added += (
                    weight
                    * delta.scaling
                    * (x[start:end] @ delta.a.double().t() @ delta.b.double().t())
                )
                if delta.bias is not None and delta.gain is not None:
                    added += weight * delta.bias.double()
                    factor += weight * delta.gain.double()
            y[start:end, column : column + out] = factor * old + added
            column += out
    return y


def _attention(
    kernels: PlannedKernels, given: AttentionInputs, window: int | None, softcap: float | None
) -> tuple[float, float]:
    (k, v), settings = (
        given.caches[0],
        {"scaling": given.scaling, "window": window, "softcap": softcap},
    )
    exact = paged_attention_reference(
        given.q.double(), k.double(), v.double(), given.plan, **settings
    )
    found, reference = (
        run(given.q, k, v, given.plan, **settings)
        for run in (kernels.attention, paged_attention_reference)
    )
    return relative_error(found, exact), relative_error(reference, exact)


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Root-mean-square difference by the result's own root mean square; infinite if a value is not
    finite."""
    difference = (found.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    return float(difference) if difference.isfinite() else float("inf")
