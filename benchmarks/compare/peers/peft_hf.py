"""transformers' `generate`: with PEFT's `adapter_names` for a mixed batch, or with one adapter
merged in."""

from __future__ import annotations

import time
from typing import Any

import peft
import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM, StoppingCriteria

from .protocol import Job, Peer, Run, main

_BASE = "__base__"
"""PEFT's name for rows without an adapter."""


class _Clock(StoppingCriteria):
    """Notes when each step's tokens are there; never stops the generation."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.times.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


class PeftHf(Peer):
    """`options`: {"merged": true} merges the only adapter into the weights."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        torch.set_num_threads(len(job.cores))
        model: Any = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.bfloat16)
        # All requests have the same lengths; without an end token each runs to its last one.
        model.generation_config.eos_token_id = None
        self._merged = bool(job.options.get("merged"))
        if job.adapters:
            model = self._with_adapters(model)
        self._model = model.eval()
        self._adapter_names = None
        if job.adapters and not self._merged:
            self._adapter_names = [name or _BASE for name in job.assigned]

    def _with_adapters(self, model: Any) -> Any:
        # PEFT's default holds them in float32, which here is faster than bfloat16.
        (first, path), *others = self.job.adapters.items()
        model = PeftModel.from_pretrained(model, path, adapter_name=first)
        for name, other in others:
            model.load_adapter(other, adapter_name=name)
        return model.merge_and_unload() if self._merged else model

    @torch.inference_mode()
    def generate(self, output_len: int) -> Run:
        inputs = torch.tensor(self.job.prompts)
        clock = _Clock()
        extra = {"adapter_names": self._adapter_names} if self._adapter_names else {}
        started = time.perf_counter()
        ids = self._model.generate(
            input_ids=inputs,
            attention_mask=torch.ones_like(inputs),
            do_sample=False,
            max_new_tokens=output_len,
            stopping_criteria=[clock],
            **extra,
        )
        wall_s = time.perf_counter() - started
        rows = len(self.job.prompts)
        outputs = ids[:, inputs.shape[1] :].tolist()
        return Run(
            wall_s,
            outputs,
            [clock.times[0] - started] * rows,
            [clock.times[-1] - clock.times[0]] * rows,
        )

    def details(self) -> dict[str, Any]:
        return {
            "version": f"transformers {transformers.__version__}, peft {peft.__version__}",
            "merged": self._merged,
        }


if __name__ == "__main__":
    main(PeftHf)
