"""Bases that steps compute otherwise than transformers does: what the check of steps must find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.mistral import modeling_mistral

LAYER = 1
"""The layer that is broken."""
Attention = Callable[..., tuple[torch.Tensor, Any]]


def _scaled(
    own: Attention, module: Any, q: Any, k: Any, v: Any, mask: Any, **given: Any
) -> tuple[torch.Tensor, Any]:
    out, weights = own(module, q, k, v, mask, **given)
    return out * 1.1, weights


def _ahead(
    own: Attention, module: Any, q: Any, k: Any, v: Any, mask: Any, **given: Any
) -> tuple[torch.Tensor, Any]:
    return own(module, q, k, v, torch.zeros_like(mask), **given)


def _one_more(
    own: Attention, module: Any, q: Any, k: Any, v: Any, mask: Any, **given: Any
) -> tuple[torch.Tensor, Any]:
    """Its window has one position more than it says."""
    far = torch.arange(q.shape[2])[:, None] - torch.arange(k.shape[2])
    inside = (far >= 0) & (far <= given["sliding_window"])
    return own(module, q, k, v, torch.zeros(far.shape).masked_fill(~inside, -1e9), **given)


OTHER_ATTENTION: dict[str, Callable[..., Any]] = {
    "scaled": _scaled,
    "looks ahead": _ahead,
    "a window of one more": _one_more,
}


def break_attention(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Break transformers' own attention of Mistral: loramux's, in its place, is another one."""
    own = modeling_mistral.eager_attention_forward

    def forward(module: Any, *args: Any, **given: Any) -> Any:
        if module.layer_idx != LAYER:
            return own(module, *args, **given)
        names = ("q", "k", "v", "mask")
        given |= dict(zip(names, args, strict=False))
        if "attention_mask" in given:
            given["mask"] = given.pop("attention_mask")
        return OTHER_ATTENTION[how](own, module, **given)

    monkeypatch.setattr(modeling_mistral, "eager_attention_forward", forward)


def _neighbours(mlp: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Takes a part of the row before, as convolutions and token shifts do."""
    return mlp(x + 0.1 * nn.functional.pad(x, (0, 0, 1, 0))[:, :-1])


def _few(mlp: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Computes steps of few rows otherwise."""
    return mlp(x) * (1.1 if x.shape[1] <= 2 else 1)


def _far(mlp: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Takes a part of a row far behind."""
    return mlp(x + 0.1 * nn.functional.pad(x, (0, 0, 40, 0))[:, : x.shape[1]])


def _many(mlp: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Drops the rows that are too many, as experts of a capacity do."""
    return torch.cat([mlp(x)[:, :64], torch.zeros_like(x[:, 64:])], 1)


OTHER_ROWS: dict[str, Callable[[nn.Module, torch.Tensor], torch.Tensor]] = {
    "mixes rows": _neighbours,
    "few rows": _few,
    "a row far behind": _far,
    "many rows": _many,
}


def break_rows(model: Any, how: str) -> Any:
    """Make the layer's MLP depend on more than the row itself."""
    mlp = model.model.layers[LAYER].mlp
    own = mlp.forward

    class Bare(nn.Module):
        forward = staticmethod(own)

    mlp.forward = lambda x: OTHER_ROWS[how](Bare(), x)
    return model
