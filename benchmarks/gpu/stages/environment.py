"""The machine, its limits as they are and not as a data sheet has them, and whether loramux can be
imported there."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import torch

from benchmarks.gpu import machine
from benchmarks.gpu.session.context import Context

ROOT = Path(__file__).parents[3]
PACKAGES = (
    "transformers",
    "huggingface_hub",
    "tokenizers",
    "numpy",
    "safetensors",
    "peft",
    "grpcio",
    "protobuf",
    "pydantic",
    "structlog",
    "grpcio-health-checking",
    "grpcio-reflection",
    "grpcio-status",
    "googleapis-common-protos",
    "pytest",
    "pytest-xdist",
    "hypothesis",
    "typer",
    "gguf",
)
_READ_BYTES, _TINY_BYTES = 8 << 30, 64 << 20


def run(context: Context) -> None:
    context.emit(
        "machine", **machine.describe(context.device), cores=os.cpu_count(), code=code_hash()
    )
    context.emit("packages", **{name: _version(name) for name in PACKAGES})
    tools = {
        name: shutil.which(name) or ""
        for name in ("compute-sanitizer", "ncu", "ptxas", "gcc", "cc")
    }
    compiler = tools["gcc"] or tools["cc"] or os.environ.get("CC", "")
    context.emit("tools", **tools, good=bool(compiler))  # without which Triton launches nothing
    if context.real:
        context.emit("card", **_card())
        free, total = torch.cuda.mem_get_info()
        context.emit("memory", free_bytes=free, total_bytes=total)
    _imports(context)
    _ceilings(context)


def _card() -> dict[str, str]:
    """As the driver tells it now; nothing is set."""
    asked = ("driver_version", "clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", "pstate")
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", f"--query-gpu={','.join(asked)}", "--format=csv,noheader", "-i", "0"]
    try:
        told = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=False
        ).stdout
    except subprocess.TimeoutExpired:
        told = ""
    return dict(zip(asked, map(str.strip, told.split(",")), strict=False))


def code_hash() -> str:
    """Of the code that is measured."""
    digest = hashlib.sha256()
    for path in sorted([*ROOT.glob("lora_runtime/**/*.py"), *ROOT.glob("server/**/*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _imports(context: Context) -> None:
    """transformers looks for a package `kernels`; a file of ours by that name would be taken for
    it."""
    spec = importlib.util.find_spec("kernels")
    origin = "" if spec is None else str(spec.origin)
    context.emit("kernels package", origin=origin, good=not origin.startswith(str(ROOT)))
    import lora_runtime

    context.emit(
        "lora_runtime",
        version=lora_runtime.__version__,
        good=Path(lora_runtime.__file__).is_relative_to(ROOT),
    )


def _ceilings(context: Context) -> None:
    found = machine.ceilings(context.device, context.dtype, small=not context.real)
    size = _READ_BYTES if context.real else _TINY_BYTES
    source = torch.ones(size // 4, dtype=torch.float32, device=context.device)
    seconds = machine.seconds(source.sum, context.device, context.repeats)
    context.emit("copy", bytes_per_s=found.bandwidth)
    context.emit("read", bytes_per_s=size / seconds)
    context.emit("product", flop_per_s=found.rate)
