"""Adapters brought in when they are first asked for: by name, from below the roots and sources."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager

import structlog

from lora_runtime import (
    MAX_ID_LENGTH,
    AdapterCapacityError,
    AdapterError,
    AdapterExistsError,
    AdapterMissingError,
    AdapterUnavailableError,
    CallerLimitError,
    Engine,
    EngineStoppedError,
    LoramuxError,
)

from ..auth.tokens import ANYONE, Caller, keys_of
from ..locations import Locations
from ..logs import limited
from ..threads import Threads, Turns

log = structlog.get_logger("loramux.server")
_NAME = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*){0,3}")
"""Pattern of names that are looked for: a path's plain parts, neither hidden nor leading up, no
revisions, no escapes."""
_EACH = 4
"""Names that one caller has looked for at once."""
_TOGETHER = 16
"""Names looked for at once: half of the threads for loads."""
_WAITING_EACH, _WAITING_ANYONE = 64, 256
"""Requests of one caller, or of all where callers have no names, that may wait for theirs."""
_MOST = 10_000
"""Adapters from which on none is brought in: a store may have one under names without end."""
_REMEMBERED = 1024
_REMEMBERED_S = 10.0
"""How many names that were not found, or could not be loaded, are not looked for again, and how
long: an adapter that is put there meanwhile is found then."""


class Resolver:
    """Resolver of one server's unknown names; used in the event loop.

    Whoever asks may use the adapter already: its scope is looked at before. One name is looked for
    once at a time, and a caller who makes names up waits for himself alone.
    """

    def __init__(
        self,
        engine: Callable[[], Engine],
        locations: Locations,
        threads: Threads,
        declared: Callable[[], Iterable[str]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the server's parts. `declared`: names that have their adapters from elsewhere, though
        they may not be loaded yet."""
        self._engine, self._locations, self._threads = engine, locations, threads
        self._declared, self._clock = declared, clock
        self._running: dict[str, asyncio.Task[None]] = {}
        self._failed: OrderedDict[str, tuple[float, LoramuxError | None]] = OrderedDict()
        """By name, until when it is not looked for again, and why; None: it was not found."""
        self._callers, self._all = Turns(_EACH), asyncio.Semaphore(_TOGETHER)
        self._waiting: Counter[str] = Counter()

    async def bring_in(self, adapter_id: str, who: Caller) -> None:
        """Load an adapter that nobody has loaded. Does nothing where there is none.

        Raises AdapterError, AdapterUnavailableError and AdapterCapacityError for one that is there
        and cannot be loaded, CallerLimitError for a caller with too many such names.
        """
        if not adapter_id or len(adapter_id) > MAX_ID_LENGTH or not _NAME.fullmatch(adapter_id):
            return
        while not self._is_settled(adapter_id):
            if running := self._running.get(adapter_id):
                await asyncio.shield(running)
                continue
            with self._counted(who):
                async with AsyncExitStack() as turns:
                    await turns.enter_async_context(self._callers.taken(*keys_of(who)))
                    await turns.enter_async_context(self._all)
                    # Others may have asked for it meanwhile.
                    if self._is_settled(adapter_id) or adapter_id in self._running:
                        continue
                    # It keeps the turns, whoever still waits for it.
                    looking = asyncio.create_task(self._look(adapter_id, who, turns.pop_all()))
                    looking.add_done_callback(_take_error)
                    self._running[adapter_id] = looking
                await asyncio.shield(looking)

    def _is_settled(self, adapter_id: str) -> bool:
        """Whether there is nothing to look for; raises what the last look met, if that is not long
        ago."""
        if self._engine().has_adapter(adapter_id):
            return True
        until, error = self._failed.get(adapter_id, (0.0, None))
        if self._clock() >= until:
            return False
        if error is not None:
            raise _for_callers(error, adapter_id)
        return True

    @contextmanager
    def _counted(self, who: Caller) -> Iterator[None]:
        most = _WAITING_ANYONE if who is ANYONE else _WAITING_EACH
        if self._waiting[who.name] >= most:
            raise CallerLimitError(who.name, f"{most} unknown adapters at once", 1.0)
        self._waiting[who.name] += 1
        try:
            yield
        finally:
            self._waiting[who.name] -= 1
            if not self._waiting[who.name]:
                del self._waiting[who.name]

    async def _look(self, adapter_id: str, who: Caller, turns: AsyncExitStack) -> None:
        error: LoramuxError | None = None
        try:
            if await self._threads.loading.run(lambda: self._load(adapter_id)):
                log.info("adapter resolved", adapter=adapter_id, caller=who.name)
                return
        except EngineStoppedError:
            raise
        except Exception as met:  # what a stranger's files set off, they set off again
            error = _for_callers(met, adapter_id)
            limited(
                "adapter not resolved",
                f"adapter not resolved: {who.name}",  # one caller's flood hides no other's
                adapter=adapter_id,
                caller=who.name,
                error=str(met) if isinstance(met, LoramuxError) else repr(met),
            )
        finally:
            del self._running[adapter_id]
            await turns.aclose()
        self._failed[adapter_id] = self._clock() + _REMEMBERED_S, error
        self._failed.move_to_end(adapter_id)
        if len(self._failed) > _REMEMBERED:
            self._failed.popitem(last=False)

    def _load(self, adapter_id: str) -> bool:
        """Load from the first place that has it; on a thread. Raises as Engine.load_adapter."""
        if adapter_id in self._declared():
            return False
        if len(self._engine().adapter_ids()) >= _MOST:
            raise AdapterCapacityError(f"there are {_MOST} adapters already: none is brought in")
        unavailable: LoramuxError | None = None
        for source in self._locations.below(adapter_id):
            try:
                self._engine().load_adapter(
                    source, adapter_id, roots=self._locations.roots, replace=False
                )
            except AdapterExistsError:  # another's load was faster
                return True
            except AdapterMissingError:
                continue
            except AdapterUnavailableError as error:
                unavailable = error
            else:
                return True
        if unavailable is not None:
            raise unavailable
        return False


def _take_error(looking: asyncio.Task[None]) -> None:
    """Take a task's error: whoever waited for it may be gone."""
    if not looking.cancelled():
        looking.exception()


def _for_callers(error: Exception, adapter_id: str) -> LoramuxError:
    """Make the error that callers get: the words of the load are the operator's, for the log."""
    if isinstance(error, AdapterUnavailableError):
        return AdapterUnavailableError(
            f"LoRA adapter '{adapter_id}' cannot be fetched now.", adapter_id
        )
    if isinstance(error, AdapterCapacityError):
        return AdapterCapacityError(f"LoRA adapter '{adapter_id}' does not fit now.")
    return AdapterError(f"LoRA adapter '{adapter_id}' was found but could not be loaded.")
