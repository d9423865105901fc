"""What compute-sanitizer watches: a launch of each prefill kernel whose last tile is not full.
Needs a GPU."""

from __future__ import annotations

import torch

from benchmarks.gpu.cost import Shape
from benchmarks.gpu.stress import Sizes, attention_cases, lora_cases
from lora_runtime.kernels import select

SHAPE = Shape("llama-3-8b, one key head", 4096, 2048, 1, 4, 1, 128, 256)
"""Narrower than a real base: every access takes a hundred times as long here."""
SIZES = Sizes((65, 192), (33,), 1, 70)


def main() -> None:
    device = torch.device("cuda", 0)
    kernels = select(device, "triton")
    for make in (lora_cases, attention_cases):
        for name, run in make(kernels, SHAPE, SIZES, torch.bfloat16, device):
            print("launched", name, run(), flush=True)


if __name__ == "__main__":
    main()
