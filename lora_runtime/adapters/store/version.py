"""One immutable version of an adapter, wherever its weights are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ...api.adapters import AdapterState, AppliedModule, RegisteredVersion
from ...errors import AdapterUnavailableError
from ..device import DeviceAdapter, StagedAdapter
from ..peft.update import CheckedAdapter

_MAX_PLACES = 8


@dataclass(frozen=True)
class VersionDetails:
    """Facts of a version that are known once it has been read, and stay known when its weights are
    gone."""

    base_model_name: str
    modules: tuple[AppliedModule, ...]
    notes: tuple[str, ...]
    invocation_tokens: tuple[int, ...]
    vocab_size: int
    tokenizer: Any
    eos_ids: frozenset[int] = frozenset()
    turn_ends: frozenset[int] = frozenset()

    @classmethod
    def of(cls, checked: CheckedAdapter) -> VersionDetails:
        return cls(
            checked.base_model_name,
            checked.modules,
            checked.notes,
            checked.invocation_tokens,
            checked.vocab_size,
            checked.tokenizer,
            checked.eos_ids,
            checked.turn_ends,
        )

    @cached_property
    def rank(self) -> int:
        """The highest of its modules' ranks."""
        return max((m.rank for m in self.modules), default=0)

    def activation_start(self, tokens: Sequence[int]) -> int | None:
        """The position from which the adapter works on a prompt; None if the prompt never invokes
        it.

        0 for a plain adapter. Activated LoRA (arXiv:2504.12397) starts with the last occurrence of
        its invocation tokens.
        """
        wanted = list(self.invocation_tokens)
        if not wanted:
            return 0
        tokens = list(tokens)
        starts = range(len(tokens) - len(wanted), -1, -1)
        return next((i for i in starts if tokens[i : i + len(wanted)] == wanted), None)


class AdapterVersion:
    """One content of an adapter for one base: where it can be read, where its weights are, and who
    needs it.

    Guarded by the registry's lock; the engine thread reads `weights` without it while a sequence
    runs with it. Each of the counters is another class's to change.
    """

    def __init__(self, registered: RegisteredVersion, adapter_id: str) -> None:
        self.version = registered.version
        self.places = [registered]
        """Places to read it again, the one that it was loaded from last first."""
        self.adapter_id = adapter_id
        """The id it was registered under last."""
        self.details: VersionDetails | None = None
        self.staged: StagedAdapter | None = None
        self.weights: DeviceAdapter | None = None
        self.leases = 0
        """Requests that are to be served by it, waiting ones included. Changed by Alias."""
        self.refs = 0
        """Ids that know it, as the version that serves or as an older one. Changed by Alias."""
        self.ids: set[str] = set()
        """Ids whose new requests may get it. Changed by Alias."""
        self.pins = 0
        """Ids that serve it and whose policy is pinned. Changed by Alias."""
        self.running = 0
        """Sequences that run with it: its slot cannot be taken. Changed by Tiers."""
        self.loading = 0
        """Threads that bring it in: what they have staged stays in host memory until they are done.
        Changed by Registry."""
        self.error = ""
        """Why it could not be brought in last."""
        self.fault = ""
        """Why it is out of service: no request gets it until it is loaded again."""
        self.device_bytes = self.host_bytes = 0
        """Sizes in a slot, and staged for one; known once it was staged."""
        self.loaded_at = 0.0
        self.last_used = 0

    @property
    def serving(self) -> int:
        """Number of the ids whose new requests may get it."""
        return len(self.ids)

    @property
    def is_unused(self) -> bool:
        """Whether no id knows it, no request uses it and no thread brings it in."""
        return self.refs == self.leases == self.loading == 0

    @property
    def needs_no_slot(self) -> bool:
        return self.running == 0 and (self.serving == 0 or bool(self.fault))

    @property
    def is_kept_staged(self) -> bool:
        """Whether it is being brought in; or replaced, with requests that are to finish on it: its
        source may hold something else now."""
        return self.loading > 0 or (self.leases > 0 and self.serving == 0)

    def add_place(self, registered: RegisteredVersion) -> None:
        """Let it be read again from there first."""
        # The same directory with other roots is another place: who may reach less replaces nothing.
        where = (registered.source, registered.roots)
        others = [p for p in self.places if (p.source, p.roots) != where]
        self.places = [registered, *others][:_MAX_PLACES]

    def unavailable(self) -> AdapterUnavailableError:
        """The error for those who want it while it is out of service, without an id."""
        return AdapterUnavailableError(f"is out of service, load it again: {self.fault}")

    @property
    def state(self) -> AdapterState:
        if self.fault:
            return AdapterState.OUT_OF_SERVICE
        if self.weights is not None:
            return AdapterState.DEVICE
        if self.staged is not None:
            return AdapterState.HOST
        if self.loading:
            return AdapterState.LOADING
        return AdapterState.FAILED if self.error else AdapterState.COLD
