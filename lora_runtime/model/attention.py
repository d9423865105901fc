"""Attention of loramux behind transformers' attention interface."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface

from ..errors import BaseModelError
from .step_context import AttentionCall, StepContext

IMPLEMENTATION = "loramux"
_KNOWN_KWARGS = {
    "position_ids",
    "position_embeddings",
    "use_cache",
    "is_causal",
    "output_attentions",
    "output_router_logits",
    "sliding_window",
    "softcap",
    "cu_seq_lens_q",
    "cu_seq_lens_k",
    "max_length_q",
    "max_length_k",
    "past_key_values",
    "return_dict",
    "logits_to_keep",
}


def register() -> None:
    """Make the implementation known to transformers. No mask function: masks come from the plan."""
    AttentionInterface.register(IMPLEMENTATION, forward)


def attach(model: nn.Module, context: StepContext) -> None:
    """Give every attention module of the base its step context."""
    for path, module in model.named_modules():
        if isinstance(getattr(module, "layer_idx", None), int):
            module.loramux_context = context
            module.loramux_path = path


def forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention with loramux's kernels.

    query: (1, heads, T, d), key and value: (1, kv_heads, T, d) → (1, T, heads, d_v). Raises
    BaseModelError for an argument it does not know, rather than computing something else.
    """
    context: StepContext = module.loramux_context  # type: ignore[assignment]
    layer: int = module.layer_idx  # type: ignore[assignment]
    turn = context.turn(layer)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if context.plan is None or context.cache is None:
        _check_arguments(module, attention_mask, kwargs)
        context.calls[turn] = AttentionCall(
            module.loramux_path,  # type: ignore[arg-type]
            query.shape[1],
            key.shape[1],
            key.shape[-1],
            value.shape[-1],
            scale,
            sliding_window,
            softcap,
            s_aux is not None,
        )
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        if context.alone:
            return value.transpose(1, 2).contiguous(), None
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale
        ).transpose(1, 2), None
    if attention_mask is not None:  # there was none in the forwards at load
        raise RuntimeError(f"attention of {type(module).__name__} has a mask in a step")
    place = context.places[turn]
    keys, values = context.cache.keys[place], context.cache.values[place]
    context.kernels.write_kv(
        key[0].transpose(0, 1), value[0].transpose(0, 1), keys, values, context.plan.slots
    )
    sinks = {} if s_aux is None else {"sinks": s_aux}
    out = context.kernels.attention(
        query[0].transpose(0, 1),
        keys,
        values,
        context.plan,
        scaling=scale,
        window=sliding_window,
        softcap=softcap,
        **sinks,
    )
    return out[None], None


def _check_arguments(module: nn.Module, mask: torch.Tensor | None, given: dict[str, Any]) -> None:
    """Raise BaseModelError for an argument that may change values, and is not computed with.

    Flags and what is not given are passed over: what they change, the check of steps shows.
    """
    unknown = [
        name
        for name, value in given.items()
        if name not in _KNOWN_KWARGS and value is not None and not isinstance(value, bool)
    ]
    if unknown or mask is not None:
        raise BaseModelError(
            f"attention of {type(module).__name__} needs {unknown or 'a mask'}: not supported"
        )
