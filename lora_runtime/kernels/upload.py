"""From host to device in the middle of a step."""

from __future__ import annotations

import torch


def upload(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """On `device`, enqueued behind what is there: the host does not wait."""
    if device.type == "cuda":
        values = values.pin_memory()  # torch does not give it to anyone else before the copy is done
    return values.to(device, non_blocking=True)
