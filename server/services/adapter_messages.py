"""Adapter reports and policies as messages, and back."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from loramux.v1 import adapters_pb2 as pb

from lora_runtime import AdapterInfo, AdapterPolicy, InvalidRequestError, redact

from ..auth.tokens import Caller
from ..declared import DeclaredStatus


def to_message(info: AdapterInfo) -> pb.Adapter:
    loaded_at = Timestamp()
    loaded_at.FromNanoseconds(int(info.loaded_at * 1e9))
    modules = [
        pb.AppliedModule(
            name=m.name, rank=m.rank, scaling=m.scaling, parts=m.parts, num_bytes=m.num_bytes
        )
        for m in info.modules
    ]
    return pb.Adapter(
        adapter_id=info.adapter_id,
        version=info.version,
        source=redact(info.source),
        base_model_name=info.base_model_name,
        modules=modules,
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
