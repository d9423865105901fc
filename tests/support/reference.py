"""What PEFT gives for one adapter alone, in float32 on the CPU: the yardstick for every row of a
mixed batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lora_runtime import Engine
from lora_runtime.model.quantised import method_of, prepare
from lora_runtime.scheduling.batch import StepBatch, StepOutput

from .engines import Forward, wrap_forward
from .updates import tuned_of


@dataclass(frozen=True)
class Expected:
    """Greedy tokens (N,) and the logits (N, vocab) that they were taken from."""

    tokens: list[int]
    logits: torch.Tensor


class PeftReference:
    """A float32 base with adapters, run by transformers and PEFT, one request at a time. It may be
    quantised, and be resized to `rows` of its vocabulary."""

    def __init__(self, base: Path, adapters: Mapping[str, Path], rows: int = 0) -> None:
        # Eager attention: the only one that knows soft capping.
        model = AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        prepare(model)
        if rows:
            _resize(model, rows)
        if method_of(model.config) == "compressed-tensors":
            with (
                torch.inference_mode()
            ):  # unpacks its weights in the first forward, and PEFT looks at them before
                model(input_ids=torch.zeros(1, 2, dtype=torch.long))
        first, *rest = adapters
        self._model = PeftModel.from_pretrained(model, adapters[first], adapter_name=first)
        for name in rest:
            self._model.load_adapter(adapters[name], adapter_name=name)
        self._model.eval()

    @torch.inference_mode()
    def linear_calls(self, prompt: Sequence[int]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """(T, in) and (T, out) of every projection that the adapter changes, in one forward of
        `prompt`."""
        calls: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        handles = []
        for path, module in tuned_of(self._model).named_modules():
            if hasattr(module, "lora_A") and len(module.lora_A):

                def keep(_: Any, args: Any, y: torch.Tensor, path: str = path) -> None:
                    calls[path] = args[0][0].clone(), y[0].clone()

                handles.append(module.register_forward_hook(keep))
        self._model(input_ids=torch.tensor([list(prompt)]))
        for handle in handles:
            handle.remove()
        return calls

    def add_composition(self, name: str, mix: Sequence[tuple[str, float]]) -> None:
        """PEFT's own composition of weighted adapters, which it has for plain LoRA alone."""
        self._model.add_weighted_adapter(
            [n for n, _ in mix], [w for _, w in mix], name, combination_type="cat"
        )

    def greedy(self, adapter_id: str, prompt: Sequence[int], count: int) -> Expected:
        if not adapter_id:
            with self._model.disable_adapter():
                return self._generate(prompt, count)
        self._model.set_adapter(adapter_id)
        return self._generate(prompt, count)

    @torch.inference_mode()
    def _generate(self, prompt: Sequence[int], count: int) -> Expected:
        ids = torch.tensor([list(prompt)])
        out = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=count,
            min_new_tokens=count,
            eos_token_id=None,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return Expected(out.sequences[0, ids.shape[1] :].tolist(), torch.stack(out.logits, 1)[0])


def _resize(model: Any, rows: int) -> None:
    """Resize as transformers does, but for the noise that it adds to the mean in new rows."""
    old = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(rows)
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        module.weight.data[old:] = module.weight.data[:old].mean(0)


class LogitsRecorder:
    """Keeps the logits of every sampled row, by request id: more than the API shows of them."""

    def __init__(self, engine: Engine) -> None:
        self._rows: dict[str, list[torch.Tensor]] = {}

        def wrap(forward: Forward) -> Forward:
            def recording(batch: StepBatch) -> StepOutput:
                output = forward(batch)
                for seq, row in zip(batch.sampling, output.logits, strict=True):
                    self._rows.setdefault(seq.handle.request_id, []).append(
                        row[: engine.base.vocab_size].clone()
                    )
                return output

            return recording

        wrap_forward(engine, wrap)

    def of(self, request_id: str) -> torch.Tensor:
        """(tokens, vocab) on the CPU, without the columns of tokens that adapters may add."""
        return torch.stack(self._rows[request_id]).cpu()


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, as a part of the largest expected value, wherever the two are."""
    actual, expected = actual.cpu(), expected.cpu()
    return float((actual - expected).abs().max() / expected.abs().max())
