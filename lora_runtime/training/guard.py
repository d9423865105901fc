"""Proof that training leaves the base alone."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from ..errors import TrainingError


class FrozenBase:
    """Everything that does not train when this is made: it must get no gradient and keep every bit."""

    def __init__(self, model: Any) -> None:
        self._parameters = {n: p for n, p in model.named_parameters() if not p.requires_grad}
        self._tensors = {n: p.data for n, p in self._parameters.items()} | dict(
            model.named_buffers()
        )
        self._trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._digest = self._hash()

    def check_gradients(self) -> None:
        """Raises TrainingError after a backward, naming a parameter with a gradient it should not
        have, or without."""
        for name, parameter in self._parameters.items():
            if parameter.grad is not None or parameter.requires_grad:
                raise TrainingError(f"the base is not frozen: {name} has a gradient")
        for name, parameter in self._trained.items():
            if parameter.requires_grad and parameter.grad is None:
                raise TrainingError(f"{name} has no gradient: the loss does not depend on it")

    def check_bits(self) -> None:
        """Raises TrainingError if any bit of the base has changed."""
        if self._hash() != self._digest:
            raise TrainingError("the base's weights have changed during training")

    def _hash(self) -> str:
        digest = hashlib.sha256()
        for name in sorted(self._tensors):
            digest.update(name.encode())
            data = self._tensors[name].detach().reshape(-1).contiguous().cpu()
            digest.update(data.view(torch.uint8).numpy())
        return digest.hexdigest()
