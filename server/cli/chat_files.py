"""Conversations and tools from files, in the form that OpenAI's clients have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

_COPIED = ("name", "tool_call_id", "reasoning_content")
_FIELDS = {"role", "content", "tool_calls", "reasoning", *_COPIED}


def read_tools(path: Path) -> list[str]:
    """Tools of a file with a list of them, each as JSON text."""
    return [json.dumps(tool, ensure_ascii=False) for tool in _objects(path, "--tools")]


def read_messages(path: Path) -> list[dict[str, Any]]:
    """Messages of a file with a list of them, as a request's."""
    try:
        return [_message(message) for message in _objects(path, "--messages")]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise typer.BadParameter(f"--messages {path} is no conversation: {error!r}") from error


def _objects(path: Path, option: str) -> list[dict[str, Any]]:
    why = "it is no list of objects"
    try:
        found = json.loads(path.read_text())
        if isinstance(found, list) and all(isinstance(one, dict) for one in found):
            return found
    except (OSError, ValueError, RecursionError) as error:
        why = str(error)
    raise typer.BadParameter(f"{option} {path}: {why}")


def _message(given: dict[str, Any]) -> dict[str, Any]:
    if unknown := [name for name in given.keys() - _FIELDS if given[name]]:
        raise ValueError(f"there is no place for {', '.join(sorted(unknown))}")
    content = given.get("content") or ""
    message: dict[str, Any] = {"role": given["role"]}
    if isinstance(content, str):
        message["content"] = content
    else:
        message["parts"] = [_part(part) for part in content]
    for name in _COPIED:
        if given.get(name):
            message[name] = given[name]
    if given.get("reasoning"):  # answers over HTTP have it by both names
        message.setdefault("reasoning_content", given["reasoning"])
    message["tool_calls"] = [_call(call) for call in given.get("tool_calls") or []]
    return message


def _part(given: dict[str, Any]) -> dict[str, Any]:
    kind = given.get("type", "text")
    return {"type": kind, "text": given["text"] if kind == "text" else ""}


def _call(given: dict[str, Any]) -> dict[str, Any]:
    if given.get("type", "function") != "function":
        raise ValueError("calls are of functions")
    function = given["function"]
    arguments = function.get("arguments", "")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {"id": given.get("id", ""), "name": function["name"], "arguments": arguments}
