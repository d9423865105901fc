"""Routes of the HTTP front, and what every call goes through."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from lora_runtime import MAX_ID_LENGTH

from .. import errors as server_errors
from . import errors, schemas
from .calls import Call, Parts
from .connections.places import most_connections
from .errors import HttpError
from .openai import routes as openai
from .openai.requests.fields import CHAT, COMPLETION
from .openai.schemas import CHAT_ANSWER, COMPLETION_ANSWER, body_schema
from .openapi import described
from .pages import adapters, health, models, status, tokens
from .route import Route
from .shares import CallShares

ROUTES: tuple[Route, ...] = (
    # Probes have no tokens.
    Route("GET", "/health", health.health, is_open=True, answer=schemas.STATUS),
    Route("GET", "/live", health.live, is_open=True, answer=schemas.STATUS),
    Route("GET", "/metrics", health.metrics),
    Route("GET", "/metrics/router", health.router_metrics),
    Route("GET", "/version", health.version, answer=schemas.VERSION),
    Route("GET", "/status", status.status, answer=schemas.STATUS_REPORT),
    Route(
        "GET",
        "/adapters",
        status.list_adapters,
        query=schemas.ADAPTERS_QUERY,
        answer=schemas.ADAPTERS,
    ),
    Route("GET", "/v1/models", models.list_models, answer=schemas.MODELS),
    Route("GET", models.ONE, models.give_model, answer=schemas.MODEL),
    Route("POST", "/tokenize", tokens.tokenize, body=schemas.TOKENIZE, answer=schemas.TOKENS),
    Route("POST", "/detokenize", tokens.detokenize, body=schemas.DETOKENIZE, answer=schemas.PROMPT),
    Route(
        "POST",
        "/v1/completions",
        openai.complete,
        body=body_schema(COMPLETION),
        answer=COMPLETION_ANSWER,
    ),
    Route("POST", "/v1/chat/completions", openai.chat, body=body_schema(CHAT), answer=CHAT_ANSWER),
    Route("POST", "/v1/load_lora_adapter", adapters.load, body=schemas.LOAD),
    Route("POST", "/v1/unload_lora_adapter", adapters.unload, body=schemas.UNLOAD),
)
_GONE = 499
"""Status of a call whose client did not wait for the end, as proxies log it."""
OTHER = "other"
"""Route of calls of what is not served; their paths are the callers' and without end."""


class HttpApp:
    """ASGI application of one server."""

    def __init__(
        self,
        parts: Parts,
        on_ended: Callable[[str, int], None],
        routes: tuple[Route, ...] = ROUTES,
        page: Route | None = None,
    ) -> None:
        """Take the server's parts. `on_ended`: told of each call's route and status; `page`: what
        people see, which is no part of the API."""
        self._parts, self._on_ended = parts, on_ended
        self._shares = CallShares(most_connections() // 2)
        self.open = 0
        """Calls that run now."""
        self._routes: dict[str, dict[str, Route]] = {}
        own = Route("GET", "/openapi.json", self.describe, answer={"type": "object"})
        self._described = described((*routes, own))
        for route in (*routes, own, *([page] if page else [])):
            self._routes.setdefault(route.path, {})[route.method] = route

    async def describe(self, call: Call) -> Response:
        """Describe the API in OpenAPI's form."""
        return JSONResponse(self._described)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        methods = self._routes.get(models.route_of(scope["path"]), {})
        route = methods.get("GET" if scope["method"] == "HEAD" else scope["method"])
        call = Call(self._parts, Request(scope, receive), route.name if route else OTHER)
        status = _GONE
        self.open += 1
        try:
            answer = await self._answer(call, route, methods)
            answer.headers["x-request-id"] = call.request_id
            if answer.status_code >= 400 and "expect" in call.request.headers:
                answer.headers["connection"] = "close"  # its body may come, or not
            await answer(scope, receive, send)
            status = answer.status_code
        except (asyncio.CancelledError, ClientDisconnect):
            pass  # the client is gone, or the server is at its end
        except BaseException as error:
            status = 500
            server_errors.told(error, call.request_id)
            raise  # ends the connection: what was begun cannot be taken back
        finally:
            self.open -= 1
            self._on_ended(call.route, status)
            if call.has_share:
                self._shares.give_back(call.who)
            call.end()

    async def _answer(self, call: Call, route: Route | None, methods: dict[str, Route]) -> Response:
        try:
            if route is None:
                raise _not_served(methods)
            if route.is_open:
                return await route.handler(call)
            call.authenticate()
            self._shares.take(call.who)
            call.has_share = True
            return await route.handler(call)
        except (asyncio.CancelledError, ClientDisconnect):
            raise
        except BaseException as error:
            return errors.response(error, call.request_id, call.fields, **_logged(call))


def _not_served(methods: dict[str, Route]) -> HttpError:
    if not methods:
        return HttpError(404, "not_found", "there is no such page; OpenAI's begin with /v1/")
    allowed = {"allow": ", ".join(sorted(methods))}
    return HttpError(405, "method_not_allowed", "the page has other methods", headers=allowed)


def _logged(call: Call) -> dict[str, Any]:
    """Fields of a refusal's line in the log; what the engine took up has its line from there."""
    return (
        {}
        if call.was_submitted
        else {"method": call.route, "adapter": call.adapter[:MAX_ID_LENGTH]}
    )
