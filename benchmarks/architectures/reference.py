"""What PEFT gives for one adapter alone, on the same weights: the yardstick of every answer."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

_TOLERANCE = 1e-3
"""Largest difference of logarithms of probabilities; of two tokens nearer than that, either."""


class Reference:
    """A model with PEFT's adapters around it, of random values, which are saved too."""

    def __init__(self, model: Any, adapters: Mapping[str, Mapping[str, Any]], root: Path) -> None:
        """Take LoraConfig's fields by adapter. Each is written to a directory of its name."""
        # Of some kinds PEFT takes names of MLPs, of shared experts too, for those of the experts.
        model.config.model_type = ""
        with warnings.catch_warnings(action="ignore"):
            peft: Any = None
            for name, fields in adapters.items():
                config = LoraConfig(task_type="CAUSAL_LM", **fields)
                if peft is None:
                    peft = get_peft_model(model, config, adapter_name=name)
                else:
                    peft.add_adapter(name, config)
            generator = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for name, parameter in peft.named_parameters():
                    if "lora_" in name:  # PEFT's own start has B = 0, which changes nothing
                        parameter.normal_(std=0.15, generator=generator)
            peft.save_pretrained(str(root))
        self._peft = peft.eval()

    @torch.inference_mode()
    def logprobs(self, adapter: str, tokens: Sequence[int]) -> torch.Tensor:
        """Log probabilities (tokens, vocab) of what comes behind each token, in one forward."""
        if adapter:
            self._peft.set_adapter(adapter)
            return self._forward(tokens)
        with self._peft.disable_adapter():
            return self._forward(tokens)

    def _forward(self, tokens: Sequence[int]) -> torch.Tensor:
        logits = self._peft(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0]
        return logits.float().log_softmax(-1)


def difference(expected: torch.Tensor, tokens: Sequence[int], logprobs: Sequence[float]) -> str:
    """Say where greedy tokens and their log probabilities are not those `expected`, else nothing.

    `expected`: (tokens, vocab), each behind the tokens before.
    """
    for i, (row, token, logprob) in enumerate(zip(expected, tokens, logprobs, strict=True)):
        best = float(row.max())
        if not best - float(row[token]) <= _TOLERANCE:  # NaN is over every limit
            return f"token {i + 1} is {token}, not {int(row.argmax())}"
        if not abs(float(row[token]) - logprob) <= _TOLERANCE:
            return f"token {i + 1} has another probability"
    return ""
