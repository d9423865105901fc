"""Triton kernels behind the signatures of the torch references; on a CPU under Triton's interpreter only."""

from __future__ import annotations

import triton

INTERPRETED: bool = triton.knobs.runtime.interpret
"""TRITON_INTERPRET=1 was set when triton was first imported: kernels run in Python on CPU tensors."""
