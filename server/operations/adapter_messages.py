"""Adapter reports and policies as messages, and back."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp
from loramux.v1 import adapters_pb2 as pb

from lora_runtime import AdapterInfo, AdapterPolicy, AppliedModule, InvalidRequestError, redact

from ..auth.tokens import Caller
from ..declared import DeclaredStatus

_KEPT = 512
"""Versions whose modules are kept as bytes, some 10 KB of each."""


class _Modules:
    """Modules of versions as bytes: hundreds of messages take a millisecond to make, their bytes a
    hundredth of that to parse."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[Sequence[AppliedModule], bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, info: AdapterInfo) -> pb.Adapter:
        """Make a message with the modules alone."""
        with self._lock:
            known = self._known.pop(info.version, None)
        # A version's modules are the same objects as long as what was read of it is kept.
        if known is None or known[0] is not info.modules:
            modules = [pb.AppliedModule(**vars(module)) for module in info.modules]
            known = info.modules, pb.Adapter(modules=modules).SerializeToString()
        with self._lock:
            self._known[info.version] = known
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return pb.Adapter.FromString(known[1])


_MODULES = _Modules()


def to_message(info: AdapterInfo) -> pb.Adapter:
    message = _MODULES.of(info)
    message.MergeFrom(without_modules(info))
    return message


def without_modules(info: AdapterInfo) -> pb.Adapter:
    """Make a message that leaves out what an adapter may have hundreds of."""
    loaded_at = Timestamp()
    loaded_at.FromNanoseconds(int(info.loaded_at * 1e9))
    return pb.Adapter(
        adapter_id=info.adapter_id,
        version=info.version,
        source=redact(info.source),
        base_model_name=info.base_model_name,
        num_bytes=info.num_bytes,
        leases=info.leases,
        loaded_at=loaded_at,
        max_rank=info.max_rank,
        state=f"ADAPTER_STATE_{info.state.name}",
        policy=pb.Policy(**vars(info.policy)),
        canary=pb.Canary(**vars(info.canary)) if info.canary else None,
        older_versions=info.older_versions,
        error=info.error,
        notes=info.notes,
    )


def may_see(who: Caller, declared: DeclaredStatus) -> bool:
    """True if the caller may know of a declared adapter, or of a place that cannot be read."""
    return who.may_use(declared.name) if declared.name else who.admin


def to_declared(declared: DeclaredStatus) -> pb.DeclaredAdapter:
    return pb.DeclaredAdapter(
        name=declared.name,
        source=declared.source,
        state=declared.state,
        version=declared.version,
        error=declared.error,
    )


def from_policy(message: pb.Policy) -> AdapterPolicy:
    """Turn a message into a policy. Raises InvalidRequestError."""
    try:
        return AdapterPolicy(
            weight=message.weight if message.HasField("weight") else 1.0,
            max_running=message.max_running,
            max_waiting=message.max_waiting,
            tokens_per_minute=message.tokens_per_minute,
            pinned=message.pinned,
        )
    except ValueError as error:
        raise InvalidRequestError.of("policy", str(error)) from error
