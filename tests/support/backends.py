"""Which way a base computes its steps."""

from __future__ import annotations

from lora_runtime import BaseModel
from lora_runtime.backends.cpp.backend import CppBackend
from lora_runtime.kernels.cpu.program import Program


def program_of(base: BaseModel) -> Program | None:
    """The C++ program; None where the steps are computed in another way."""
    return base.backend.program if isinstance(base.backend, CppBackend) else None
