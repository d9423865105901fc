"""What the engine reports: its limits and counters, each step, each request's end."""

from __future__ import annotations

from dataclasses import dataclass

from .adapters import AdapterInfo, AdapterState
from .answers import AdapterUse, FinishReason
from .requests import Request


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of the device's memory; `total`, `used`, `steps` and `graphs` are measured at start, on
    CUDA only."""

    total: int = 0
    used: int = 0
    """Taken by the base's weights, the libraries and other processes."""
    steps: int = 0
    """The most that a step takes, with the buffers that steps are run in."""
    graphs: int = 0
    """What captured steps keep."""
    adapters: int = 0
    """Room for all slots together; 0: no limit."""
    kv_cache: int = 0

    def __str__(self) -> str:
        return ", ".join(
            f"{name} {value / 2**20:.1f} MiB" for name, value in vars(self).items() if value
        )


@dataclass(frozen=True)
class EngineInfo:
    """What the engine runs, for GetServerInfo and `loramux info`."""

    base_model: str
    architecture: str
    device: str
    dtype: str
    kernels: dict[str, str]
    """Op name → implementation chosen at start."""
    num_parameters: int
    vocab_size: int
    max_context: int
    max_adapters: int
    max_running: int
    max_waiting: int
    max_batch_tokens: int
    kv_block_size: int
    kv_blocks: int
    version: str
    memory: MemoryPlan = MemoryPlan()
    notes: tuple[str, ...] = ()
    """Notes on the base, such as a chat template whose turns end with no end of a sequence."""


@dataclass(frozen=True)
class EngineStats:
    """Gauges and totals at one moment."""

    running: int
    waiting: int
    kv_blocks_used: int
    """Blocks that live sequences hold; cached prefixes without a user are not counted."""
    kv_blocks_cached: int
    kv_blocks_total: int
    adapters: int
    """Versions on the device."""
    adapter_bytes: int
    """Bytes of these versions."""
    leases: int
    preemptions: int
    steps: int
    registered_adapters: int = 0
    """Ids, wherever their weights are."""
    host_adapters: int = 0
    """Versions in host memory only."""
    host_adapter_bytes: int = 0
    loading_adapters: int = 0
    out_of_service_adapters: int = 0
    """Versions with which steps fail."""


@dataclass(frozen=True)
class Occupancy:
    """How full the engine is at one moment, for those who ask many times a second."""

    running: int
    """Sequences in the batch."""
    waiting: int
    kv_blocks_used: int
    kv_blocks_total: int
    awaited: tuple[str, ...] = ()
    """Ids that requests wait for, in no slot and on their way to none, sorted."""


@dataclass(frozen=True)
class ResidentAdapter:
    """An adapter version in a slot, in host memory, or on its way there."""

    version: str
    adapter_ids: tuple[str, ...]
    """Ids whose new requests may get it, sorted; none where it only finishes what runs with it, or
    may serve again."""
    level: AdapterState
    """DEVICE: in a slot; HOST: in host memory alone; LOADING: being read."""
    staged: bool
    """Whether host memory has it too: out of its slot, it comes back without being read."""
    in_service: bool
    """False where steps with it fail, so that no request gets it."""
    pinned: bool
    rank: int
    """The highest of its modules' ranks; 0 where it was never read."""
    num_bytes: int
    """Bytes in a slot; 0 where it was never read."""
    host_bytes: int
    """Bytes in host memory, staged for a slot."""


@dataclass(frozen=True)
class StepStats:
    """One engine step, given to observers."""

    duration_s: float
    tokens: int
    sequences: int
    distinct_adapters: int
    running: int
    waiting: int
    kv_blocks_used: int
    kv_blocks_total: int
    token_gaps: tuple[tuple[str, float], ...] = ()
    """Request id and seconds since the token before, of each first choice that got another one."""
    generated: int = 0
    """Tokens that were sampled."""
    prefill_tokens: int = 0
    """The part of `tokens` in rows of more than one: of prompts, or computed again after a
    preemption."""
    first_tokens: tuple[tuple[tuple[AdapterUse, ...], float], ...] = ()
    """Adapters and seconds from arrival to first token, of each first choice that got its first."""


@dataclass(frozen=True)
class RunningStep:
    """The step that runs at this moment, with what the engine thread does before and after it."""

    age_s: float
    tokens: int
    sequences: int
    adapters: tuple[str, ...]
    """Ids, sorted; like the counts empty before the step's rows are chosen."""


@dataclass(frozen=True)
class RequestRecord:
    """A request that ended, given to observers. `outcome`: ok, cancelled, timeout or error."""

    request_id: str
    adapter_id: str
    adapter_version: str
    outcome: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    queue_s: float
    ttft_s: float | None
    """Submission to first token; None when none was produced."""
    e2e_s: float
    adapters: tuple[AdapterUse, ...] = ()
    choice_tokens: tuple[int, ...] = ()
    """Generated tokens of each choice."""
    adapter_wait_s: float = 0.0
    """The part of `queue_s` that the request waited for its adapter to be loaded."""
    decode_s: float = 0.0
    """First to last token of the first choice."""
    finish_reasons: tuple[FinishReason, ...] = ()
    """Why its choices ended, of those that did by themselves."""


class EngineObserver:
    """Receives events on the engine's threads; override what is of interest and return quickly."""

    def on_step(self, stats: StepStats) -> None:
        """A step has run."""

    def on_request_finished(self, record: RequestRecord) -> None:
        """A request has ended, whatever its outcome."""

    def on_request_rejected(self, request: Request, error: Exception) -> None:
        """`submit` raised `error`: the request was never queued. Called on the caller's thread."""

    def on_adapter_loaded(self, info: AdapterInfo, seconds: float) -> None:
        """An adapter version is ready to serve."""

    def on_adapter_evicted(self, info: AdapterInfo, reason: str) -> None:
        """A version left its slot; reason: unloaded, replaced, out_of_service or evicted (for
        another, the id still serves)."""

    def on_adapter_failed(self, adapter_id: str, error: Exception) -> None:
        """An adapter could not be loaded."""

    def on_adapter_out_of_service(self, info: AdapterInfo) -> None:
        """Steps with a version fail, `info.error` says how: requests get it no more until it is
        loaded again."""

    def on_registrations_changed(self) -> None:
        """`Engine.registrations` gives something else than before."""

    def on_engine_failed(self, error: BaseException) -> None:
        """The engine thread died; every request got EngineFailedError."""
