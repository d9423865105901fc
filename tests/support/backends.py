"""What a base's backend has inside, for tests of one backend."""

from __future__ import annotations

from lora_runtime import BaseModel
from lora_runtime.backends.cpp.backend import CppBackend
from lora_runtime.backends.triton.backend import TritonBackend
from lora_runtime.backends.triton.fused_model import FusedModel
from lora_runtime.kernels.cpu.program import Program


def program_of(base: BaseModel) -> Program | None:
    """The C++ program; None where the steps are computed in another way."""
    return base.backend.program if isinstance(base.backend, CppBackend) else None


def fused_of(base: BaseModel) -> FusedModel:
    """The model as the Triton backend computes it, with the slots of its adapters."""
    assert isinstance(base.backend, TritonBackend)
    return base.backend.fused
