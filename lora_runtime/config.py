"""Settings of the engine, with defaults that suit a small machine.

settings.py says how they are declared. The text below a field is read on the command line, in files
and in Python: it names other settings as they are here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .settings import (
    AtLeastOne,
    Fraction,
    NotNegative,
    Positive,
    Setting,
    check,
    one_of,
    settings_of,
)


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """Settings of how a base model is loaded.

    Raises ValueError for values that no base could be loaded with.
    """

    device: str = "auto"
    """Device: auto, cpu, cuda or cuda:N; auto takes CUDA where there is one."""
    # checked=False: who loads a base knows its dtypes, and raises BaseModelError
    dtype: Annotated[str, one_of("auto", "float32", "bfloat16", "float16", checked=False)] = "auto"
    """Type of the base's numbers: auto, float32, bfloat16 or float16; auto is bfloat16 on CUDA and
    on CPUs that have it, else float32."""
    trust_hub: bool = False
    """Allow the base to be a hub id, fetched over the network; a local directory needs none."""
    max_added_tokens: NotNegative = 64
    """Tokens that an adapter may add behind the base's vocabulary."""
    response_template: str = ""
    """JSON file with a response template for the base's tokenizer, as `parse_response` of
    transformers takes it: tells tool calls and reasoning of answers apart. Empty is the tokenizer's
    own; an adapter's own goes before both."""
    kernels: Annotated[str, one_of("auto", "torch", "triton")] = "auto"
    """Backend: auto takes Triton's kernels on CUDA and the C++ ones on x86-64 CPUs where they can
    run the base, torch neither; triton on a CPU needs Triton's interpreter (TRITON_INTERPRET=1)."""
    weights: Annotated[str, one_of("auto", "int8")] = "auto"
    """Storage of the base's weights: auto leaves them in dtype; int8 stores them in a byte each
    (CPU, C++ backend only)."""
    attention: Annotated[str, one_of("auto", "triton", "flashinfer")] = "auto"
    """Attention of the Triton backend: auto is triton; flashinfer needs the package
    flashinfer-python and takes 16-bit dtypes, without CUDA graphs."""
    compile: Annotated[str, one_of("off", "elementwise")] = "off"
    """Use of torch.compile: elementwise makes one kernel of each norm and activation of
    transformers' forward; not with the C++ backend, which has its own."""
    allow_row_dependence: bool = False
    """Serve a quantised base whose projections compute a row differently beside other rows
    (LLM.int8's outlier columns, activations scaled per step), so that a request's output depends on
    its neighbours; else it is refused."""
    tensor_parallel: AtLeastOne = 1
    """Processes that share the base, its heads and its adapters, each with a part: one per CUDA
    device, or each with its share of a CPU's threads; see docs/guide/parallel.md."""

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def settings(cls) -> tuple[Setting, ...]:
        """Settings, each with its name, type, default, limit and help text: what a command line or
        a file can be made from."""
        return settings_of(cls)


@dataclass(frozen=True, kw_only=True)
class EngineConfig(BaseConfig):
    """Limits of one engine, and how it loads its base.

    Raises ValueError for values that could never serve a request.
    """

    cuda_graphs: bool = True
    """Capture decode steps as CUDA graphs at start, where the base and the attention allow it."""
    lora_overlap: bool = False
    """Compute A x on a second stream beside the base's product (Triton backend); not measured
    yet."""
    threads: NotNegative = 0
    """CPU threads of a step; 0 leaves torch's number, one per core."""
    max_running: AtLeastOne = 64
    """Sequences in one step."""
    max_waiting: NotNegative = 512
    """Sequences that may wait beside max_running running ones; more are refused: QueueFullError,
    RESOURCE_EXHAUSTED. An adapter, or a caller, may have half of them unless its policy says more
    or less."""
    max_batch_tokens: AtLeastOne = 512
    """Tokens in one step: decode rows first, the rest goes to prefill chunks."""
    max_context: NotNegative = 0
    """Tokens of prompt and completion together; 0 is the base model's own limit."""
    kv_block_size: AtLeastOne = 16
    """Tokens per KV block; a multiple of 16 for the C++ backend."""
    kv_cache_bytes: NotNegative = 0
    """Bytes for the KV cache; 0 is 1 GiB on CPU, on CUDA what weights, steps and adapters leave."""
    device_memory_fraction: Fraction = 0.9
    """Part of a CUDA device's memory that everything together may take; what steps take is measured
    at start."""
    prefix_caching: bool = True
    """Reuse the KV of prompt prefixes."""
    max_adapters: NotNegative = 64
    """Adapter slots: versions on the device at once; 0 serves the base alone."""
    adapter_device_bytes: NotNegative = 0
    """Bytes that all slots together may take; 0 is no limit but max_adapters on CPU, on CUDA a
    fifth of what weights and steps leave."""
    adapter_host_bytes: NotNegative = 2 << 30
    """Bytes of host memory for adapters in no slot; what is over goes back to its source."""
    adapter_load_threads: AtLeastOne = 16
    """Adapters that are fetched and read at once."""
    adapter_cache_dir: str = ""
    """Directory where fetched adapters are kept, by content; empty is loramux's directory in the
    user's cache."""
    adapter_cache_bytes: NotNegative = 0
    """Bytes of fetched adapters that stay in adapter_cache_dir beside those in use, least recently
    used out first; 0 is no limit."""
    adapter_versions_kept: NotNegative = 2
    """Older versions of an adapter that a rollback can go to."""
    max_messages: AtLeastOne = 1024
    """Messages of one request; chat templates take time for each."""
    max_stop_token_ids: NotNegative = 256
    """Stop token ids of one request."""
    max_structured_bytes: NotNegative = 64 << 10
    """Bytes of what one request says of its structured answer: a schema, an expression, a grammar
    or choices."""
    grammar_timeout_s: Positive = 2.0
    """Seconds of the processor's that it may take to compile the grammar of a structured answer."""
    max_composed_adapters: AtLeastOne = 8
    """Adapters of one request, whose weighted updates are summed."""
    priority_aging_s: Positive = 10.0
    """Seconds of waiting that count as one step of priority."""
    max_adapter_bytes: AtLeastOne = 2 << 30
    """Largest file of an adapter's tensors that is accepted, in bytes; and the bytes of such files
    that are in memory at once while they are read, others wait."""
    chat_template_timeout_s: Positive = 2.0
    """Seconds that a chat template which came with an adapter may take for one request; and a
    response template, which tells the parts of its answers apart, beside a moment for each."""
    adapter_tokenizer_timeout_s: Positive = 20.0
    """Seconds that it may take to read a tokenizer which came with an adapter."""
    adapter_worker_bytes: AtLeastOne = 1 << 30
    """Bytes of memory that rendering such a template, reading such a tokenizer, and telling apart
    (at most 256 MiB), may take."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_batch_tokens < self.max_running:
            raise ValueError(
                "max_batch_tokens must be at least max_running: each sequence decodes a token a step"
            )
