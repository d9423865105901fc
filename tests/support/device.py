"""Where the tests compute, decided once: compiled on CUDA where there is a GPU, else on the CPU and
interpreted.

- Engines that tests start with `device` auto run on the GPU where there is one: the Triton backend, with its graphs.
- Tests of what a CPU alone has (the C++ backend, int8 weights, memory that host and slots share, gloo) name it.
- PEFT's reference runs on the CPU in float32; `relative_error` compares there.
"""

from __future__ import annotations

import os
from typing import Any

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ON_GPU = DEVICE == "cuda"

if not ON_GPU:
    os.environ.setdefault(
        "TRITON_INTERPRET", "1"
    )  # read when triton is imported, which transformers does

torch.set_float32_matmul_precision("highest")  # no TF32: the tolerances are those of float32

PATHS: dict[str, dict[str, Any]] = {
    "cpp": {"device": "cpu"},
    "torch": {"device": "cpu", "kernels": "torch"},
    **(
        {"cuda": {"device": DEVICE}, "cuda torch": {"device": DEVICE, "kernels": "torch"}}
        if ON_GPU
        else {}
    ),
}
"""The ways in which a step can run here: what BaseModel.load is given for each."""

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2 if ON_GPU else 1.5e-2, torch.float16: 2e-3}
"""Of a kernel's output. The interpreter cuts bfloat16 off where hardware rounds it: an error twice
as large."""
