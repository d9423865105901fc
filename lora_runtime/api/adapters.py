"""What is said of adapters: what was applied, states, policies, registrations."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MIN_SHARE, MAX_SHARE = 1e-3, 1e3


@dataclass(frozen=True)
class AppliedModule:
    """What the loader applied to one module."""

    name: str
    rank: int
    """Rank, 0 where the module has no low-rank part."""
    scaling: float
    """What multiplies B(A x)."""
    parts: tuple[str, ...] = ("lora",)
    """lora, rslora, dora, lora_bias, bias, weight (saved whole), tokens (single rows of it), rows
    (added to the vocabulary and not in the file)."""
    num_bytes: int = 0
    """Bytes of its tensors in the file."""


class AdapterState(StrEnum):
    """The place of a version's weights."""

    COLD = "cold"
    """Left at its source; a request brings them in."""
    LOADING = "loading"
    HOST = "host"
    """Checked and in host memory."""
    DEVICE = "device"
    """Placed in a slot."""
    FAILED = "failed"
    """The last try to load it failed; the next request tries again."""
    OUT_OF_SERVICE = "out_of_service"
    """Steps with it fail: requests are refused until it is loaded again."""


@dataclass(frozen=True)
class CanaryInfo:
    """A second version under the same id that takes `weight` (0 to 1) of the requests."""

    version: str
    weight: float
    error: str = ""
    """Why it is out of service, if it is: the id's other version takes its requests."""


@dataclass(frozen=True)
class AdapterPolicy:
    """What one adapter's requests may take. 0 means no limit, but for `max_waiting`.

    `weight` is its share of the served tokens beside the others. Sequences above `max_running` wait;
    above `max_waiting` (0: half of the engine's), and while the adapter is over `tokens_per_minute`
    (prompt and completion), requests are refused with AdapterLimitError. A `pinned` adapter never
    leaves its slot for another.
    """

    weight: float = 1.0
    max_running: int = 0
    max_waiting: int = 0
    tokens_per_minute: int = 0
    pinned: bool = False

    def __post_init__(self) -> None:
        if not MIN_SHARE <= self.weight <= MAX_SHARE:
            raise ValueError(f"weight must be in [{MIN_SHARE:g}, {MAX_SHARE:g}], got {self.weight}")
        for name in ("max_running", "max_waiting", "tokens_per_minute"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True)
class RegisteredVersion:
    """A version and where to read it again: the directory it was read from if that still holds it,
    else its source."""

    version: str
    source: str
    directory: str
    roots: tuple[str, ...] = ()
    """Directories that the files of a local source must lie below at each reading, links followed;
    none for what was loaded without such limits."""
    allow_unknown_fields: bool = False
    """As `Engine.load_adapter` was given it; it holds at each reading."""


@dataclass(frozen=True)
class Registration:
    """What must be remembered of an adapter id to serve it again after a restart.

    `versions`: the one that serves, then the older ones, newest first.
    """

    adapter_id: str
    versions: tuple[RegisteredVersion, ...]
    canary: RegisteredVersion | None = None
    canary_weight: float = 0.0
    policy: AdapterPolicy | None = None


@dataclass(frozen=True)
class AdapterInfo:
    """A registered adapter. `version` is the hex SHA-256 of its files and of the base's identity."""

    adapter_id: str
    version: str
    source: str
    base_model_name: str
    modules: tuple[AppliedModule, ...]
    num_bytes: int
    """Bytes on the device; 0 while that is not known (registered, never loaded)."""
    leases: int
    """Requests that use the id now, those on older versions included."""
    loaded_at: float
    """Seconds since the epoch."""
    state: AdapterState = AdapterState.DEVICE
    policy: AdapterPolicy = AdapterPolicy()
    canary: CanaryInfo | None = None
    older_versions: tuple[str, ...] = ()
    """What `rollback_adapter` can go back to, newest first."""
    error: str = ""
    """Why the last try to load it failed, or why it is out of service."""
    notes: tuple[str, ...] = ()
    """What was accepted and has no effect at inference: fields of its configuration, names that match
    nothing, parts that are zero."""

    @property
    def max_rank(self) -> int:
        return max((m.rank for m in self.modules), default=0)
