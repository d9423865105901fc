"""What a compiled kernel takes, and what must hold of it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from .cubins import resources
from .launches import FP32, AttentionLaunch, Launch
from .targets import compiled

SHARED = {80: 163 << 10, 89: 99 << 10, 90: 227 << 10}
"""Bytes of shared memory that one program may take. sm_86 has as much as sm_89."""
_LORA_SHARED = 99 << 10
"""What LoRA's kernels keep within: any of these GPUs, and two programs on most."""
_LORA_REGISTERS = 65536 // 2
"""Of a multiprocessor: a program of LoRA's takes at most half."""
_SPILLED = {"lora": 64, "attention": 128}
"""Bytes a thread, in the kernels that fill sm_80's registers."""
_OTHER_STEPS = ((15, 65), (31, 96), (2, 40))
"""(decode rows, width of the block table): steps that must run the very same kernels."""


@dataclass(frozen=True)
class Kernel:
    """One kernel of a launch, for sm_`capability`."""

    launch: str
    capability: int
    kernel: str
    registers: int
    spilled: int
    """Bytes of stack a thread."""
    shared: int
    """Bytes a program."""
    warps: int
    wgmma: int
    mma: int
    """Tensor-core instructions in the PTX."""
    wide_loads: int
    """Of 16 bytes."""

    @property
    def name(self) -> str:
        return f"{self.launch} sm_{self.capability} {self.kernel}"

    def row(self) -> dict[str, Any]:
        return {"name": self.name, **asdict(self)}


def compile_launch(launch: Launch, capability: int) -> tuple[list[Kernel], bool, float]:
    """(its kernels, whether all came from Triton's cache, seconds)."""
    from triton import knobs

    hits: list[bool] = []

    def note(*, cache_hit: bool, **_: Any) -> None:
        hits.append(cache_hit)

    started = time.perf_counter()
    before, knobs.compilation.listener = knobs.compilation.listener, note
    try:
        found = compiled(capability, launch)
    finally:
        knobs.compilation.listener = before
    seconds = time.perf_counter() - started
    return [_kernel(launch, capability, kernel) for kernel in found], all(hits), seconds


def _kernel(launch: Launch, capability: int, kernel: Any) -> Kernel:
    registers, spilled = resources(kernel.asm["cubin"])
    ptx = kernel.asm["ptx"]
    return Kernel(
        launch.name,
        capability,
        kernel.metadata.name,
        registers,
        spilled,
        kernel.metadata.shared,
        kernel.metadata.num_warps,
        len(re.findall(r"\bwgmma\.mma_async\.", ptx)),
        len(re.findall(r"\bmma\.sync\.", ptx)),
        len(re.findall(r"cp\.async\.cg\.shared\.global|ld\.global\.v4|ld\.global\.\S*v4\.", ptx)),
    )


def problems(launch: Launch, kernels: list[Kernel]) -> Iterator[str]:
    """What does not hold."""
    if len(kernels) != launch.kernels:
        yield f"{launch.name}: {len(kernels)} kernels"
    for kernel in kernels:
        for what in (
            _of_attention(launch, kernel)
            if isinstance(launch, AttentionLaunch)
            else _of_lora(launch, kernel)
        ):
            yield f"{kernel.name}: {what}"
        if kernel.wgmma and (kernel.capability < 90 or launch.kind == "mma"):
            yield f"{kernel.name}: {kernel.wgmma} wgmma"


def _of_lora(launch: Launch, kernel: Kernel) -> Iterator[str]:
    if kernel.shared > _LORA_SHARED:
        yield f"{kernel.shared} bytes of shared memory"
    if (taken := kernel.registers * 32 * kernel.warps) > _LORA_REGISTERS:
        yield f"{taken} registers"
    if kernel.spilled > _SPILLED["lora"]:
        yield f"{kernel.spilled} bytes spilled"
    if (kernel.wgmma + kernel.mma > 0) != (launch.dtype != FP32):
        yield f"{kernel.wgmma} wgmma and {kernel.mma} mma in {launch.dtype}"
    if not kernel.wide_loads:
        yield "no wide loads"
    if (
        kernel.capability == 90
        and launch.dtype != FP32
        and "prefill wgmma" in launch.name
        and not kernel.wgmma
    ):
        yield "no wgmma"


def _of_attention(launch: Launch, kernel: Kernel) -> Iterator[str]:
    if kernel.shared > SHARED.get(kernel.capability, min(SHARED.values())):
        yield f"{kernel.shared} bytes of shared memory"
    if kernel.spilled > _SPILLED["attention"]:
        yield f"{kernel.spilled} bytes spilled"
    attends = kernel.kernel in ("_chunk_kernel", "_decode_kernel")
    if (kernel.wgmma + kernel.mma > 0) != (attends and launch.dtype != FP32):
        yield f"{kernel.wgmma} wgmma and {kernel.mma} mma in {launch.dtype}"


def specialised(launch: AttentionLaunch, capability: int) -> list[str]:
    """Steps of other sizes that would compile kernels of their own, which would stall a running
    server."""
    own = [kernel.hash for kernel in compiled(capability, launch)]
    return [
        f"{launch.name} sm_{capability}: {rows} rows, {width} blocks"
        for rows, width in _OTHER_STEPS
        if [
            k.hash for k in compiled(capability, lambda rows=rows, width=width: launch(rows, width))
        ]
        != own
    ]
