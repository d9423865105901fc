"""Settings of the engine, with defaults that suit a small machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BaseConfig:
    """How a base model is loaded. Raises ValueError for values that no base could be loaded with."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto takes CUDA where there is one."""
    dtype: str = "auto"
    """auto, float32, bfloat16 or float16; auto is bfloat16 on CUDA and on CPUs that have it."""
    trust_hub: bool = False
    """Let `base` be a hub id that is fetched; a local directory needs no network."""
    max_added_tokens: int = 64
    """Tokens that an adapter may add behind the base's vocabulary."""
    kernels: str = "auto"
    """auto takes Triton's kernels on CUDA and the C++ ones on x86-64 where they can run the base, torch neither;
    triton on a CPU needs Triton's interpreter (TRITON_INTERPRET=1)."""
    weights: str = "auto"
    """auto leaves the base's weights in `dtype`; int8 stores them in a byte each (CPU, C++ kernels only)."""
    attention: str = "auto"
    """Triton kernels' attention: auto, triton, or flashinfer (the package flashinfer-python; 16-bit dtypes, no CUDA
    graphs); auto is triton."""
    compile: str = "off"
    """elementwise: torch.compile makes one kernel of each norm and activation of transformers' forward; not with the
    C++ kernels, which have their own."""
    allow_row_dependence: bool = False
    """Serve a quantised base whose projections compute a row differently beside other rows (LLM.int8's outlier columns,
    activations scaled per step), so that a request's output depends on its neighbours; else it is refused."""
    tensor_parallel: int = 1
    """Processes that share the base, its heads and its adapters, each with a part: CUDA devices, or CPU threads."""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("kernels", ("auto", "torch", "triton")), ("weights", ("auto", "int8")),
            ("attention", ("auto", "triton", "flashinfer")), ("compile", ("off", "elementwise")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.tensor_parallel < 1:
            raise ValueError(f"tensor_parallel must be at least 1, got {self.tensor_parallel}")
        if self.max_added_tokens < 0:
            raise ValueError(f"max_added_tokens must not be negative, got {self.max_added_tokens}")


@dataclass(frozen=True)
class EngineConfig(BaseConfig):
    """Limits of one engine, and how it loads its base. Raises ValueError for values that could never serve a request.
    """

    cuda_graphs: bool = True
    """On CUDA: capture decode steps as CUDA graphs at start, where the base's forward and the attention allow it."""
    lora_overlap: bool = False
    """Triton kernels: compute A x on a second stream beside the base's product. Off: not measured yet."""
    threads: int = 0
    """CPU threads of a step; 0 leaves torch's number, one per core."""
    max_running: int = 64
    """Sequences in one step."""
    max_waiting: int = 512
    """Sequences that may wait beside `max_running` running ones; more are refused with QueueFullError."""
    max_batch_tokens: int = 512
    """Tokens per step: decode rows first, the rest goes to prefill chunks."""
    max_context: int = 0
    """Tokens of prompt and completion together; 0 takes the base model's own limit."""
    kv_block_size: int = 16
    """Tokens per KV block; a multiple of 16 for the C++ kernels."""
    kv_cache_bytes: int = 0
    """Bytes for the KV cache; 0 is 1 GiB on CPU, on CUDA what weights, steps and adapters leave."""
    device_memory_fraction: float = 0.9
    """Part of a CUDA device's memory that all of it together may take; what steps take is measured at start."""
    prefix_caching: bool = True
    max_adapters: int = 64
    """Adapter slots: versions resident on the device at once; 0 serves the base alone."""
    adapter_device_bytes: int = 0
    """Bytes that all slots together may take; 0 is a fifth of what weights and steps leave on CUDA, no limit on CPU."""
    adapter_host_bytes: int = 2 << 30
    """Bytes of host memory for adapters that are not in a slot; what is over goes back to its source."""
    adapter_load_threads: int = 16
    """Adapters that are fetched and read at once."""
    adapter_cache_dir: str = ""
    """Where fetched adapters are kept, by content; empty is loramux's directory in the user's cache."""
    adapter_cache_bytes: int = 0
    """Bytes of fetched adapters that stay there beside those in use, least recently used out first; 0 is no limit."""
    adapter_versions_kept: int = 2
    """Older versions of an id that `rollback_adapter` can go back to."""
    priority_aging_s: float = 10.0
    """Seconds of waiting that count as one step of priority."""
    max_adapter_bytes: int = 2 << 30
    """Largest adapter accepted, in bytes of tensors on disk."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_running", "max_batch_tokens", "kv_block_size", "adapter_load_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("max_waiting", "max_context", "kv_cache_bytes", "max_adapters", "threads", "adapter_device_bytes",
                     "adapter_host_bytes", "adapter_cache_bytes", "adapter_versions_kept"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 < self.device_memory_fraction <= 1:
            raise ValueError(f"device_memory_fraction must be in (0, 1], got {self.device_memory_fraction}")
        if self.priority_aging_s <= 0:
            raise ValueError(f"priority_aging_s must be positive, got {self.priority_aging_s}")
        if self.max_batch_tokens < self.max_running:
            raise ValueError("max_batch_tokens must be at least max_running: each sequence decodes a token a step")
