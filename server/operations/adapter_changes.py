"""Changes of adapters that callers ask for, the same for every front: turns, threads, locations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from loramux.v1 import adapters_pb2 as pb

from lora_runtime import (
    MAX_ID_LENGTH,
    AdapterInfo,
    AdapterInUseError,
    AdapterPolicy,
    Engine,
    InvalidRequestError,
)

from ..auth.shares import PIN_SHARE, check_policy
from ..auth.tokens import Caller, keys_of
from ..locations import Locations, adapter_id_of
from ..threads import Threads, Turns

ALL = "*"
"""What stands for all adapters in policies; no adapter has this id."""
_MAX_UNLOAD_WAIT_S = 3600
_LOADS_EACH = 16
"""Threads for loads that one caller may have at once: half of them."""
_CHANGES_EACH = 8
"""Threads for changes that one token may have at once, and as many for unloads that wait: that may
be for an hour each."""
T = TypeVar("T")


class AdapterChanges:
    """Changes of one server's adapters: their turns are those of all fronts together.

    They run on threads of their own, and of these unloads that wait on others.
    """

    def __init__(
        self, engine: Callable[[], Engine], locations: Locations, threads: Threads
    ) -> None:
        self._engine, self._locations, self._threads = engine, locations, threads
        self._loads = Turns(_LOADS_EACH)
        self._changes, self._unloads = Turns(_CHANGES_EACH), Turns(_CHANGES_EACH)
        self._unloading: set[str] = set()
        """Ids that an unload waits for."""

    async def load(
        self, request: pb.LoadAdapterRequest, who: Caller, policy: AdapterPolicy | None = None
    ) -> AdapterInfo:
        """Load what the request names; its policy is given apart. Raises InvalidRequestError,
        PermissionError, and as Engine.load_adapter."""
        check_length(request.adapter_id)
        async with self._loads.taken(who.name):
            return await self._threads.loading.run(lambda: self._load(request, who, policy))

    async def load_named(
        self, adapter_id: str, location: str, who: Caller, replace: bool
    ) -> AdapterInfo:
        """Load from a path, a URL or a hub id, see Locations.request; raises as `load`, and
        AdapterExistsError for an id in use that it is not to `replace`."""
        check_length(adapter_id)

        def load() -> AdapterInfo:
            request = self._locations.request(adapter_id, location)
            return self._load(request, who, None, replace)

        async with self._loads.taken(who.name):
            return await self._threads.loading.run(load)

    async def unload(self, adapter_id: str, timeout_s: float, who: Caller) -> AdapterInfo:
        """Unload, waiting up to `timeout_s` for requests that use it. Raises InvalidRequestError,
        and as Engine.unload_adapter."""

        def unload() -> AdapterInfo:
            if not 0 <= timeout_s <= _MAX_UNLOAD_WAIT_S:
                raise InvalidRequestError.of("timeout_s", f"must be in [0, {_MAX_UNLOAD_WAIT_S}]")
            return self._engine().unload_adapter(adapter_id, timeout_s)

        if timeout_s <= 0:
            return await self.change(unload, adapter_id, who)
        check_length(adapter_id)
        async with self._unloads.taken(*keys_of(who)):
            return await self._wait_for(unload, adapter_id)

    async def change(self, work: Callable[[], T], adapter_id: str, who: Caller) -> T:
        """Run what changes an adapter, and does not take long, in the caller's turn."""
        check_length(adapter_id)
        async with self._changes.taken(*keys_of(who)):
            return await self._threads.administration.run(work)

    def _load(
        self,
        request: pb.LoadAdapterRequest,
        who: Caller,
        policy: AdapterPolicy | None,
        replace: bool = True,
    ) -> AdapterInfo:
        engine, source, adapter_id = (
            self._engine(),
            self._locations.resolve(request),
            adapter_id_of(request),
        )
        if adapter_id == ALL:
            raise InvalidRequestError.of("adapter_id", f"{ALL!r} stands for all adapters")
        if not 0 <= request.canary_weight < 1:
            raise InvalidRequestError.of("canary_weight", "must be in [0, 1)")
        if policy is not None:
            check_policy(who, engine, adapter_id, policy)
        # The roots once more, for links that are changed between the look and the reading.
        return engine.load_adapter(
            source,
            adapter_id,
            canary_weight=request.canary_weight,
            policy=policy,
            roots=self._locations.roots,
            pin_share=PIN_SHARE,
            allow_unknown_fields=request.allow_unknown_fields,
            replace=replace,
        )

    async def _wait_for(self, unload: Callable[[], T], adapter_id: str) -> T:
        """Unload on another thread, one for each id: more would take all threads and change
        nothing."""
        if adapter_id in self._unloading:
            raise AdapterInUseError(f"adapter {adapter_id!r} is being unloaded already")
        running = self._threads.unloading.submit(unload)
        self._unloading.add(adapter_id)
        running.add_done_callback(lambda _: self._unloading.discard(adapter_id))
        try:
            return await asyncio.wrap_future(running)
        finally:
            del running  # see Pool.run


def check_length(adapter_id: str) -> None:
    """Check an id before it is looked at. Raises InvalidRequestError."""
    if len(adapter_id) > MAX_ID_LENGTH:
        raise InvalidRequestError.of("adapter_id", f"must have at most {MAX_ID_LENGTH} characters")
