"""The page of metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from ..threads import Pool

_OPEN_METRICS = "application/openmetrics-text"


class MetricsPage:
    """Page of a registry: made once for all who ask meanwhile, and beside the event loop, as that
    takes up to a tenth of a second."""

    def __init__(
        self, registry: CollectorRegistry, threads: Pool, router: Callable[[], bytes]
    ) -> None:
        self._registry, self._threads = registry, threads
        self.router = router
        """Makes the page for routers, which takes no lock and a fraction of a millisecond."""
        self._making: dict[str, asyncio.Task[bytes]] = {}

    async def page(self, accept: str) -> tuple[bytes, str]:
        """Make the page in the form that `accept` asks for; gives it and its content type."""
        # Not with the version that is asked for: each that is made up would be a page of its own.
        make, kind = choose_encoder(_OPEN_METRICS if _OPEN_METRICS in accept else "")
        making = self._making.get(kind)
        if making is None:
            making = self._making[kind] = asyncio.create_task(self._made(make))
            making.add_done_callback(lambda _: self._making.pop(kind))
        return await asyncio.shield(making), kind

    async def _made(self, make: Callable[[CollectorRegistry], bytes]) -> bytes:
        return await self._threads.run(lambda: make(self._registry))
