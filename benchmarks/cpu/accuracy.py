"""What bfloat16 and int8 weights cost in accuracy, against float32, on English text.

    python -m benchmarks.cpu.accuracy

The text of prompts.txt is read in windows, every position's next-token distribution is kept, and
three things are compared: the perplexity of the text, how often the best token is float32's, and
the mean divergence KL(float32 || format) in nats.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.common.paths import MODEL
from benchmarks.common.workloads import TEXT
from lora_runtime import BaseModel
from lora_runtime.scheduling.batch import StepBatch

WINDOW, BLOCK = 128, 16
FORMATS = (("float32", "auto"), ("bfloat16", "auto"), ("float32", "int8"), ("bfloat16", "int8"))


def windows(tokens: list[int]) -> Iterator[tuple[StepBatch, torch.Tensor]]:
    """(a batch of one sequence with every row sampled, the tokens that follow each row)."""
    for start in range(0, len(tokens) - WINDOW, WINDOW):
        rows = np.arange(WINDOW, dtype=np.int32)
        batch = StepBatch(
            tokens=np.array(tokens[start : start + WINDOW], np.int32),
            positions=rows,
            slots=rows,
            query_start=np.array([0, WINDOW], np.int32),
            context_lengths=np.array([WINDOW], np.int32),
            block_tables=np.arange(WINDOW // BLOCK, dtype=np.int32)[None],
            block_size=BLOCK,
            sampled_rows=rows,
            segments=(),
            sampling=(),
            distinct_adapters=0,
        )
        yield batch, torch.tensor(tokens[start + 1 : start + WINDOW + 1])


def distributions(dtype: str, weights: str, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Log probabilities (positions, vocab) and the text's own next tokens (positions,)."""
    base = BaseModel.load(MODEL, dtype=dtype, weights=weights)
    runner = base.make_runner(WINDOW // BLOCK, BLOCK)
    pairs = [
        # Behind the vocabulary are tokens that adapters add: none here.
        (runner.forward(b).logits[:, : base.vocab_size].log_softmax(-1), n)
        for b, n in windows(base.tokenizer(text)["input_ids"])
    ]
    return torch.cat([p for p, _ in pairs]), torch.cat([n for _, n in pairs])


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    text = TEXT.read_text()
    reference: torch.Tensor | None = None
    for dtype, weights in FORMATS:
        logprobs, following = distributions(dtype, weights, text)
        reference = logprobs if reference is None else reference
        perplexity = math.exp(-float(logprobs.gather(1, following[:, None]).mean()))
        same = float((logprobs.argmax(-1) == reference.argmax(-1)).float().mean())
        divergence = float((reference.exp() * (reference - logprobs)).sum(-1).mean())
        name = dtype if weights == "auto" else f"{dtype}, int8 weights"
        print(
            f"{name:24} perplexity {perplexity:.3f}   best token as float32's {same:.1%}   KL {divergence:.5f}"
            f"   ({len(following)} positions)"
        )


if __name__ == "__main__":
    main()
