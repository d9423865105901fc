"""Description of the API in OpenAPI's form, made from the routes that serve it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

from lora_runtime import __version__

from .route import Route
from .schemas import ERROR, Schema

_JSON, _TEXT, _EVENTS = "application/json", "text/plain", "text/event-stream"
_ID = {
    "name": "x-request-id",
    "in": "header",
    "description": "The request's id, in the server's log too.",
    "schema": {"type": "string"},
}


def described(routes: Iterable[Route]) -> dict[str, Any]:
    """Make the description of `routes`."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "loramux", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {"Error": ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    done = {"description": "Done.", "content": _content(route)}
    told: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": (inspect.getdoc(route.handler) or "").partition("\n\n")[0],
        "parameters": [_ID, *_in_path(route.path), *_in_query(route.query)],
        "responses": {
            "200": done,
            # What a probe is told has the same form, well or not.
            **({"503": {**done, "description": "Not so."}} if route.is_open else {}),
            "default": {
                "description": "Refused, or failed.",
                "content": {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
        "security": [] if route.is_open else [{"token": []}],
    }
    if route.body is not None:
        told["requestBody"] = {"required": True, "content": {_JSON: {"schema": route.body}}}
    return told


def _in_path(path: str) -> list[dict[str, Any]]:
    names = re.findall(r"\{(\w+)\}", path)
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in names
    ]


def _in_query(query: Mapping[str, Schema]) -> list[dict[str, Any]]:
    return [{"name": name, "in": "query", "schema": schema} for name, schema in query.items()]


def _content(route: Route) -> Mapping[str, Any]:
    if route.answer is None:
        return {_TEXT: {}}
    told: dict[str, Any] = {_JSON: {"schema": route.answer}}
    if route.body is not None and "stream" in route.body["properties"]:
        told[_EVENTS] = {}
    return told
