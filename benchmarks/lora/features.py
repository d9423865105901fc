"""What LoRA's features do while it learns: Z_A = A x, Z_B = s B A x, and what one step changes of
Z_B.

As in "The Impact of Initialization on LoRA Finetuning Dynamics" (arXiv:2406.08447): a step changes
Z_B by d1 + d2 + d3 with d1 = s B' (A - A') x (A learns), d2 = s (B - B') A' x (B learns), d3 = s (B
- B')(A - A') x, where A', B' are the matrices before it. The paper holds x fixed; here x is what
the module gets now.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

_ADAPTER = "default"


class Probe:
    """Norms at the chosen modules of a PeftModel, on the same rows at chosen steps; no part of the
    training."""

    def __init__(
        self,
        model: Any,
        modules: Sequence[str],
        batch: dict[str, torch.Tensor],
        steps: Sequence[int],
    ) -> None:
        self._model, self._batch, self._steps = model, batch, frozenset(steps)
        self._kept = batch["attention_mask"].bool()
        self._layers = {name: model.get_base_model().get_submodule(name) for name in modules}
        self._before = self._weights()
        self.rows: list[dict[str, Any]] = []

    def after(self, step: int) -> None:
        """Call after every step: its update is the difference to the last call."""
        if step in self._steps:
            inputs = self._inputs()
            for name, layer in self._layers.items():
                self.rows.append(
                    {"step": step, "module": name} | norms(layer, inputs[name], *self._before[name])
                )
        self._before = self._weights()

    def _weights(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        return {
            n: (
                layer.lora_A[_ADAPTER].weight.detach().clone(),
                layer.lora_B[_ADAPTER].weight.detach().clone(),
            )
            for n, layer in self._layers.items()
        }

    @torch.no_grad()
    def _inputs(self) -> dict[str, torch.Tensor]:
        """x of every module, (tokens, in), without padding."""
        found: dict[str, torch.Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            return lambda module, args: found.__setitem__(name, args[0][self._kept].float())

        handles = [
            layer.register_forward_pre_hook(keep(name)) for name, layer in self._layers.items()
        ]
        training = self._model.training
        self._model.eval()
        try:
            # one position is enough for the logits: only what happens inside counts
            self._model(**self._batch, use_cache=False, logits_to_keep=1)
        finally:
            self._model.train(training)
            for handle in handles:
                handle.remove()
        return found


@torch.no_grad()
def norms(
    layer: Any, x: torch.Tensor, a_before: torch.Tensor, b_before: torch.Tensor
) -> dict[str, float]:
    """Mean length over tokens of A x, s B A x, W x and of the parts of the last step's change; x:
    (tokens, in)."""
    a, b = layer.lora_A[_ADAPTER].weight.float(), layer.lora_B[_ADAPTER].weight.float()
    scaling = layer.scaling[_ADAPTER]
    z, z_before = x @ a.T, x @ a_before.float().T
    b_before = b_before.float()
    parts = {
        "z_a": z,
        "z_b": scaling * z @ b.T,
        "base": x @ layer.base_layer.weight.float().T,
        "d1": scaling * (z - z_before) @ b_before.T,
        "d2": scaling * z_before @ (b - b_before).T,
        "d3": scaling * (z - z_before) @ (b - b_before).T,
    }
    return {name: round(float(part.norm(dim=-1).mean()), 6) for name, part in parts.items()}
