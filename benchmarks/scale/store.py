"""The project's own registry, tiers and slots, with readings that take simulated time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from lora_runtime import AdapterInfo, EngineConfig, Registration, WeightedAdapter
from lora_runtime.adapters.device import AdapterHost, DeviceAdapter, StagedAdapter
from lora_runtime.adapters.store.events import StoreListener
from lora_runtime.adapters.store.reading import Reader
from lora_runtime.adapters.store.registry import Registry
from lora_runtime.adapters.store.slots import Slots
from lora_runtime.adapters.store.version import AdapterVersion, VersionDetails
from lora_runtime.api.adapters import RegisteredVersion

_DETAILS = VersionDetails("", (), (), (), 0, None)


@dataclass
class _Weights:
    """An adapter's weights, which nobody computes with."""

    num_bytes: int
    host_bytes: int


class _Base:
    """A base that takes adapters of one size at once, and holds them where they were staged."""

    shares_host_memory = True

    def __init__(self, adapter_bytes: int) -> None:
        self._bytes = adapter_bytes

    def stage_adapter(self, updates: Mapping[str, Any]) -> StagedAdapter:
        return _Weights(self._bytes, self._bytes)

    def place_adapter(self, staged: StagedAdapter) -> DeviceAdapter:
        return staged

    def remove_adapter(self, adapter: DeviceAdapter) -> None:
        pass


class _Read:
    """A reading's outcome."""

    details = _DETAILS

    def __init__(self, registered: RegisteredVersion, base: _Base) -> None:
        self.registered, self._base = registered, base

    def stage(self) -> StagedAdapter:
        return self._base.stage_adapter({})


class _Threads:
    """As many readings at once as there are threads, each as long as `delay` makes it."""

    def __init__(self, count: int, delay: Callable[[Callable[[], object]], object]) -> None:
        self._free, self._delay = count, delay
        self._waiting: deque[tuple[Callable[[], None], Future[None]]] = deque()

    def submit(self, work: Callable[[], None]) -> Future[None]:
        done: Future[None] = Future()
        self._waiting.append((work, done))
        self._start()
        return done

    def _start(self) -> None:
        while self._free and self._waiting:
            self._free -= 1
            work, done = self._waiting.popleft()
            self._delay(lambda work=work, done=done: self._end(work, done))  # type: ignore[misc]

    def _end(self, work: Callable[[], None], done: Future[None]) -> None:
        self._free += 1
        work()
        done.set_result(None)
        self._start()


class _Reader:
    def __init__(self, base: _Base, threads: _Threads) -> None:
        self.threads, self._base = threads, base

    @contextmanager
    def read_again(self, version: str, places: Sequence[RegisteredVersion]) -> Any:
        yield _Read(places[0], self._base)


class _Listener:
    """Hears of loads; nothing fails here."""

    def __init__(self, on_loaded: Callable[[], object]) -> None:
        self._on_loaded = on_loaded

    def adapter_loaded(self, info: AdapterInfo, seconds: float) -> None:
        self._on_loaded()

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: None


class Store:
    """Adapters of one replica. They are known there from their first request on, as ones that were
    read at the server's start and are in no slot."""

    def __init__(
        self,
        config: EngineConfig,
        adapter_bytes: int,
        load: Callable[[Callable[[], object]], object],
        on_loaded: Callable[[], object],
    ) -> None:
        """`load`: lets the time of a load go by, and calls then. `on_loaded`: hears of each."""
        base = _Base(adapter_bytes)
        host, listener = cast(AdapterHost, base), cast(StoreListener, _Listener(on_loaded))
        self._registry = Registry(host, config, listener)
        threads = _Threads(config.adapter_load_threads, load)
        reader = cast(Reader, _Reader(base, threads))
        self.slots = Slots(self._registry, reader, config.adapter_load_threads)

    @property
    def resident(self) -> frozenset[str]:
        """Ids of what is in a slot."""
        return frozenset(v.adapter_id for v in self._registry.tiers.resident)

    def lease(self, adapter_id: str) -> AdapterVersion:
        """Give the version that serves a request, until `release`."""
        if adapter_id not in self._registry.aliases:
            place = RegisteredVersion(adapter_id, adapter_id, adapter_id)
            self._registry.register(Registration(adapter_id, (place,)))
            self._registry.versions[adapter_id].details = _DETAILS
        return self._registry.lease((WeightedAdapter(adapter_id),))[0]

    def release(self, version: AdapterVersion) -> None:
        self._registry.release((WeightedAdapter(version.adapter_id),), (version,))
