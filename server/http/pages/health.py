"""Pages about the server: health, metrics, version."""

from __future__ import annotations

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import JSONResponse, Response

from lora_runtime import __version__

from ...auth.rules import Right
from ...lifecycle.readiness import ServerState
from ..calls import Call


async def health(call: Call) -> Response:
    """Tell whether the server takes traffic, as gRPC's health under the empty name."""
    state = call.parts.readiness.state
    return JSONResponse({"status": state}, 200 if state is ServerState.READY else 503)


async def live(call: Call) -> Response:
    """Tell whether the process should be left alone, as gRPC's health under "live"."""
    is_live = call.parts.readiness.is_live
    return JSONResponse({"status": "live" if is_live else "failed"}, 200 if is_live else 503)


async def version(call: Call) -> Response:
    """Tell the version of the server."""
    call.allow(Right.READ)
    return JSONResponse({"version": __version__})


async def metrics(call: Call) -> Response:
    """Show all metrics; they name every adapter, so the whole scope is asked for."""
    call.allow(Right.READ, ["*"])
    text, kind = await call.parts.metrics.page(call.request.headers.get("accept", ""))
    return Response(text, media_type=kind)


async def router_metrics(call: Call) -> Response:
    """Show what routers decide by, which names adapters, too."""
    call.allow(Right.READ, ["*"])
    return Response(call.parts.metrics.router(), media_type=CONTENT_TYPE_PLAIN_0_0_4)
