"""Compiles every Triton kernel that a function launches for GPUs that need not be there.

Run as a module, without TRITON_INTERPRET: `python -m tests.support.triton_compile MODULE:FUNCTION`. The function is
called on CPU tensors; its launches are compiled with their own constants and told as JSON, a line each.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
CAPABILITIES = (80, 90)
"""A100 and H100."""


def compiled_launches(function: str) -> list[dict[str, Any]]:
    """What `function` ("module:name") launches, per capability: kernel, registers, spilled bytes, shared bytes."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-m", __name__, function], env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def _capture(launch: Callable[[], None]) -> list[dict[str, Any]]:
    """Calls `launch` with every kernel's start replaced by its compilation."""
    import triton
    from triton.runtime.jit import JITFunction

    found: list[dict[str, Any]] = []
    seen: set[str] = set()

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        options = {k: kwargs.pop(k) for k in ("num_warps", "num_stages") if k in kwargs}
        values = dict(zip(self.arg_names, args, strict=False)) | kwargs
        assert list(values) == self.arg_names or set(values) == set(self.arg_names), self.__name__
        key = repr((self.__name__, options, [_kind(self, n, values[n]) for n in self.arg_names]))
        if key not in seen:
            seen.add(key)
            found.extend(_compile(self, values, options, capability) for capability in CAPABILITIES)

    triton.knobs.compilation.always_compile = triton.knobs.nvidia.dump_ptxas_log = True
    real, JITFunction.run = JITFunction.run, run
    try:
        launch()
    finally:
        JITFunction.run = real
    return found


def _kind(kernel: Any, name: str, value: Any) -> tuple[str, Any, bool]:
    """(type, constant, whether it is a multiple of 16), as a launch specialises."""
    if name in {p.name for p in kernel.params if p.is_constexpr}:
        return "constexpr", value, False
    if isinstance(value, torch.Tensor):
        names = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int32: "i32",
                 torch.int64: "i64"}
        return f"*{names[value.dtype]}", None, True
    if isinstance(value, float):
        return "fp32", None, False
    if value == 1:
        return "constexpr", 1, False
    return ("i32" if abs(value) < 1 << 31 else "i64"), None, value % 16 == 0


def _compile(kernel: Any, values: dict[str, Any], options: dict[str, Any], capability: int) -> dict[str, Any]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kinds = {name: _kind(kernel, name, values[name]) for name in kernel.arg_names}
    source = ASTSource(
        kernel, {n: k[0] for n, k in kinds.items()}, {n: k[1] for n, k in kinds.items() if k[0] == "constexpr"},
        {(i,): [["tt.divisibility", 16]] for i, k in enumerate(kinds.values()) if k[2]})
    with contextlib.redirect_stdout(io.StringIO()) as log:
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    registers, spilled = _resources(log.getvalue())
    return {
        "kernel": kernel.__name__, "capability": capability, "registers": registers, "spilled": spilled,
        "shared": made.metadata.shared, "async": len(re.findall(r"cp\.async\.c[ag]\S*", made.asm["ptx"])), "dots": len(re.findall(r"\b(?:mma|wgmma)\.\S*", made.asm["ptx"])),
        "constants": {n: k[1] for n, k in kinds.items() if k[0] == "constexpr"}, **options}


def _resources(log: str) -> tuple[int, int]:
    """Registers and spilled bytes per thread, as the assembler tells."""
    registers, spilled = re.search(r"Used (\d+) registers", log), re.search(r"(\d+) bytes spill stores", log)
    assert registers is not None, log
    assert spilled is not None, log
    return int(registers[1]), int(spilled[1])


if __name__ == "__main__":
    module, name = sys.argv[1].split(":")
    for launched in _capture(getattr(importlib.import_module(module), name)):
        print(json.dumps(launched))
