"""Reports on the server, the same for every front: what it is, and what runs now."""

from __future__ import annotations

from collections.abc import Callable

from loramux.v1 import server_pb2 as pb

from lora_runtime import AdapterState, Engine, ResidentAdapter

from ..auth.tokens import Caller
from ..lifecycle.readiness import Readiness, ServerState
from .adapter_messages import may_see, to_declared
from .rates import Rates

_STATES: dict[ServerState, pb.ServerState] = {
    ServerState.NOT_READY: pb.SERVER_STATE_NOT_READY,
    ServerState.READY: pb.SERVER_STATE_READY,
    ServerState.STALLED: pb.SERVER_STATE_STALLED,
    ServerState.DRAINING: pb.SERVER_STATE_DRAINING,
    ServerState.FAILED: pb.SERVER_STATE_FAILED,
}
_WAITING = 20
_IDS = 16
"""Ids of a version that are named: a thousand may have the same content."""
_LIMITS = (
    "max_context",
    "max_adapters",
    "max_running",
    "max_waiting",
    "max_batch_tokens",
    "kv_block_size",
    "kv_blocks",
)
_LOAD = (
    "running",
    "waiting",
    "adapters",
    "adapter_bytes",
    "leases",
    "kv_blocks_used",
    "kv_blocks_cached",
    "preemptions",
    "steps",
    "registered_adapters",
    "host_adapters",
    "host_adapter_bytes",
    "loading_adapters",
)


class ServerReports:
    """Reports of one server. They take locks: for a thread, see Reads."""

    def __init__(
        self,
        engine: Callable[[], Engine],
        readiness: Readiness,
        max_message_bytes: int,
    ) -> None:
        self._engine, self._readiness = engine, readiness
        self._max_message_bytes = max_message_bytes
        self.rates = Rates()
        """Observer of the engine's steps."""

    def info(self, who: Caller) -> pb.ServerInfo:
        """Tell `who` what the server is. Raises EngineStoppedError, as `status`."""
        engine = self._engine()
        info = engine.info()
        return pb.ServerInfo(
            version=info.version,
            base_model=info.base_model,
            architecture=info.architecture,
            device=info.device,
            dtype=info.dtype,
            kernels=info.kernels,
            num_parameters=info.num_parameters,
            vocab_size=info.vocab_size,
            limits=self._limits(engine),
            load=_load(engine),
            memory=pb.Memory(**vars(info.memory)),
            readiness=self._ready(who),
            notes=info.notes,
        )

    def status(self, who: Caller) -> pb.ServerStatus:
        """Tell `who` what runs now; of adapters outside its scope only how many there are."""
        engine = self._engine()
        info = engine.info()
        return pb.ServerStatus(
            version=info.version,
            base_model=info.base_model,
            readiness=self._ready(who),
            limits=self._limits(engine),
            load=_load(engine),
            memory=pb.Memory(**vars(info.memory)),
            rates=pb.Rates(**vars(self.rates.speed(who.may_use))),
            batch=_batch(engine, who),
            slots=_slots(engine, who),
            loading_adapter_ids=[
                adapter_id
                for resident in engine.residents()
                if resident.level is AdapterState.LOADING
                for adapter_id in _in_scope(resident, who)[:_IDS]
            ],
        )

    def _limits(self, engine: Engine) -> pb.Limits:
        info = engine.info()
        return pb.Limits(
            **{name: getattr(info, name) for name in _LIMITS},
            max_message_bytes=self._max_message_bytes,
            host_adapter_bytes=engine.config.adapter_host_bytes,
        )

    def _ready(self, who: Caller) -> pb.Readiness:
        waiting = [s for s in self._readiness.waiting_for() if may_see(who, s)]
        return pb.Readiness(
            state=_STATES.get(self._readiness.state),
            waiting_for=[to_declared(status) for status in waiting[:_WAITING]],
            waiting_for_count=len(waiting),
        )


def _load(engine: Engine) -> pb.Load:
    stats = engine.stats()
    return pb.Load(**{name: getattr(stats, name) for name in _LOAD})


def _batch(engine: Engine, who: Caller) -> pb.Batch:
    step = engine.running_step()
    running = sorted(engine.running_adapters().items(), key=lambda one: (-one[1], one[0]))
    others = [count for adapter_id, count in running if not who.may_use(adapter_id)]
    return pb.Batch(
        step_age_s=step.age_s if step else 0,
        adapters=[
            pb.BatchAdapter(adapter_id=adapter_id, sequences=count)
            for adapter_id, count in running
            if who.may_use(adapter_id)
        ],
        other_adapters=len(others),
        other_sequences=sum(others),
    )


def _slots(engine: Engine, who: Caller) -> list[pb.Slot]:
    running = engine.running_sequences()
    taken = [one for one in engine.residents() if one.level is AdapterState.DEVICE]
    return [
        _slot(resident, running.get(resident.version, 0), who)
        for resident in sorted(taken, key=lambda one: one.adapter_ids)
    ]


def _slot(resident: ResidentAdapter, running: int, who: Caller) -> pb.Slot:
    found = _in_scope(resident, who)
    if not found and "*" not in who.adapters:
        return pb.Slot(is_hidden=True)
    return pb.Slot(
        adapter_ids=found[:_IDS],
        adapter_ids_count=len(found),
        version=resident.version,
        pinned=resident.pinned,
        num_bytes=resident.num_bytes,
        rank=resident.rank,
        running=running,
    )


def _in_scope(resident: ResidentAdapter, who: Caller) -> list[str]:
    ids = resident.adapter_ids
    return list(ids) if "*" in who.adapters else [name for name in ids if who.may_use(name)]
