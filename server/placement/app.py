"""The port of `loramux placement`: Envoy's REST discovery, health, metrics, and the plan to read."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from .metrics import PlacementMetrics
from .placer import Placer, Published
from .table import RESOURCES, response

log = structlog.get_logger("loramux.placement")

DISCOVERY = "/v3/discovery:extension_configs"
_MOST_BYTES = 1 << 20
"""Of a request: Envoy tells of itself and names its resources."""
_LATE, _LATE_S = 5, 15
"""Intervals without a look after which health is gone, and seconds that are in time in any case."""


class PlacementApp:
    """The pages, and the task that keeps the placement."""

    def __init__(self, placer: Placer) -> None:
        self._placer = placer
        self._registry = CollectorRegistry()
        self._registry.register(PlacementMetrics(placer))
        self._tables: dict[tuple[str, ...], tuple[Published, bytes]] = {}
        """Last answer by names of resources."""
        self._looked = -float("inf")
        # A name that does not resolve holds up nothing but the next look.
        self._threads = ThreadPoolExecutor(2, "loramux-placement")
        self.routes = Starlette(
            routes=[
                Route(DISCOVERY, self._discover, methods=["POST"]),
                Route("/placement", self._placement),
                Route("/healthz", self._health),
                Route("/metrics", self._metrics),
            ],
            lifespan=self._life,
        )

    @contextlib.asynccontextmanager
    async def _life(self, _: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(self._keep_looking())
        yield
        task.cancel()
        self._threads.shutdown(wait=False)

    async def _keep_looking(self) -> None:
        interval_s = self._placer.settings.interval_s
        while True:
            try:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._threads, self._placer.look)
                self._looked = loop.time()
            except Exception:  # the last placement is still right; health tells
                log.exception("look failed")
            await asyncio.sleep(interval_s)

    async def _discover(self, request: Request) -> Response:
        try:
            asked = json.loads(await _body(request))
            names = tuple(sorted(set(asked["resource_names"])))
            given = str(asked.get("version_info", ""))
            if refused := asked.get("error_detail"):
                log.error("Envoy refuses the placement", reason=str(refused)[:2000])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return PlainTextResponse("a DiscoveryRequest with resource_names is wanted\n", 400)
        published = self._placer.published
        if published is None:
            return PlainTextResponse("no adapter has been asked for yet\n", 503)
        if given == published.version:
            return Response(status_code=304)
        try:
            loop = asyncio.get_running_loop()
            table = await loop.run_in_executor(self._threads, self._table, published, names)
        except ValueError as error:
            return PlainTextResponse(f"{error}\n", 404)
        return Response(table, media_type="application/json")

    def _table(self, published: Published, names: tuple[str, ...]) -> bytes:
        kept = self._tables.get(names)
        if kept is None or kept[0] is not published:
            made = response(published.placement, published.addresses, names)
            kept = published, json.dumps(made, separators=(",", ":")).encode()
            if len(self._tables) >= 8:  # nobody asks for so many
                self._tables.clear()
            self._tables[names] = kept
        return kept[1]

    async def _placement(self, _: Request) -> Response:
        published = self._placer.published
        found = self._placer.fleet.addresses
        return JSONResponse(
            {
                "replicas": {
                    name: {protocol: address.served_at(protocol) for protocol in RESOURCES.values()}
                    for name, address in found.items()
                },
                "adapters": dict(published.placement) if published else {},
            }
        )

    async def _health(self, _: Request) -> Response:
        age_s = asyncio.get_running_loop().time() - self._looked
        late = age_s > max(_LATE_S, _LATE * self._placer.settings.interval_s)
        return PlainTextResponse("late\n" if late else "ok\n", 503 if late else 200)

    async def _metrics(self, _: Request) -> Response:
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


async def _body(request: Request) -> bytes:
    """Read a body. Raises ValueError for one that is too large, or that the client left."""
    body = b""
    try:
        async for part in request.stream():
            body += part
            if len(body) > _MOST_BYTES:
                raise ValueError("too large")
    except ClientDisconnect as error:
        raise ValueError("the client has left") from error
    return body
