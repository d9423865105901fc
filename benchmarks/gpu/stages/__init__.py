"""What a lease runs, in the order of its worth. Each stage is a module here with `run(context)`.

May import: gpu, gpu.compiling, gpu.peers, gpu.session, gpu.sweeping, lora_runtime,
lora_runtime.backends.triton, lora_runtime.kernels, lora_runtime.kernels.triton,
lora_runtime.scheduling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stage:
    """`limit_s`: on a GPU, after which it is cut off; what it has found by then stays."""

    name: str
    limit_s: float
    fresh: bool = False
    """Started anew, not forked: it needs another environment than the rest, or must not share its
    imports."""
    environment: Mapping[str, str] = field(default_factory=dict)
    package: str = __name__

    @property
    def module(self) -> str:
        return f"{self.package}.{self.name}"


STAGES = (
    Stage("environment", 45),
    Stage("compiling", 100, fresh=True, environment={"TRITON_INTERPRET": "0"}),
    Stage("errors", 45),
    Stage("stress", 90),
    Stage("graphs", 45),
    Stage("decode", 140),
    Stage("profile", 45),
    Stage("engine", 90),
    Stage("prefill", 60),
    Stage("sanitizer", 60, fresh=True),
    Stage("peers", 75),
    Stage("sweep", 110),
    Stage("kernels", 60),
    Stage("decode_qwen3", 100),
    Stage("loads", 60),
    Stage("tests", 150, fresh=True),
    Stage("demo", 120),
    Stage("serve", 120, fresh=True),
)
NAMES = tuple(stage.name for stage in STAGES)
