"""Commands `loramux generate` and `loramux info`."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.message import EncodeError
from loramux.v1 import inference_pb2
from loramux_client import Client

from ..message_json import to_dict
from .chat_files import read_messages, read_tools
from .common import AsJson, print_json, remote
from .structured import structured


@remote
def generate(
    client: Client,
    prompt: Annotated[
        str,
        typer.Argument(
            help="The prompt; - reads standard input; none where --messages has the conversation."
        ),
    ] = "",
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter",
            "-a",
            help="Adapter id, or ID=WEIGHT; repeated: all at once. None: the base model.",
        ),
    ] = None,
    chat: Annotated[bool, typer.Option(help="Send the prompt as a user's chat message.")] = True,
    max_new_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    temperature: Annotated[float | None, typer.Option(min=0)] = None,
    top_p: Annotated[float | None, typer.Option()] = None,
    top_k: Annotated[int | None, typer.Option(min=0)] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Stop string; repeatable.")] = None,
    logit_bias: Annotated[
        list[str] | None,
        typer.Option(help="ID=BIAS: what is added to a token's logit; repeatable."),
    ] = None,
    min_tokens: Annotated[
        int | None, typer.Option(min=0, help="Tokens that nothing ends the answer within.")
    ] = None,
    json_object: Annotated[
        bool, typer.Option("--json-object", help="Hold the answer to a JSON object.")
    ] = False,
    json_schema: Annotated[
        str | None, typer.Option(help="JSON Schema that the answer is held to, or @FILE.")
    ] = None,
    regex: Annotated[
        str | None, typer.Option(help="Regular expression that the answer is held to.")
    ] = None,
    choice: Annotated[
        list[str] | None, typer.Option(help="Text that the answer may be; repeatable.")
    ] = None,
    lark: Annotated[
        str | None, typer.Option(help="Lark grammar that the answer is held to, or @FILE.")
    ] = None,
    priority: Annotated[int | None, typer.Option(help="Higher goes first.")] = None,
    cache_salt: Annotated[
        str | None,
        typer.Option(
            help="Share cached prefixes with all who give the same, whatever their token."
        ),
    ] = None,
    skip_special_tokens: Annotated[
        bool | None, typer.Option(help="Leave special tokens out of the text.")
    ] = None,
    begun: Annotated[
        str | None,
        typer.Option("--continue", help="Beginning of the answer, which goes on from there."),
    ] = None,
    chat_template_kwargs: Annotated[
        str | None,
        typer.Option(
            help="Values for the chat template, a JSON object: '{\"enable_thinking\": false}'."
        ),
    ] = None,
    messages: Annotated[
        Path | None,
        typer.Option(
            help="JSON file with the messages before the prompt, as OpenAI's clients have."
        ),
    ] = None,
    tools: Annotated[
        Path | None,
        typer.Option(help="JSON file with a list of tools, as OpenAI's clients have; see --parse."),
    ] = None,
    tool_choice: Annotated[
        str | None,
        typer.Option(help="none, auto, required, or the name of the tool that the answer calls."),
    ] = None,
    parse: Annotated[
        bool | None,
        typer.Option(
            "--parse/--no-parse",
            help="Tell content, reasoning and tool calls apart; the default where there are tools.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Stream a completion to the terminal."""
    text = sys.stdin.read() if prompt == "-" else prompt
    options = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "seed": seed,
        "stop": stop,
        "logit_bias": _biases(logit_bias),
        "min_tokens": min_tokens,
        "structured": structured(json_object, json_schema, regex, choice, lark),
        "priority": priority,
        "cache_salt": cache_salt,
        "skip_special_tokens": skip_special_tokens,
        "chat_template_kwargs": _json_object(chat_template_kwargs),
        "tools": None if tools is None else read_tools(tools),
        "tool_choice": None if tool_choice is None else _tool_choice(tool_choice),
        "parse_answer": (tools is not None) if parse is None else parse,
    }
    fields: dict[str, Any] = {k: v for k, v in options.items() if v is not None}
    if messages is not None and not chat:
        raise typer.BadParameter("--messages is a chat, not with --no-chat")
    turns = [] if messages is None else read_messages(messages)
    if text or not turns:
        turns.append({"role": "user", "content": text})
    fields |= {"messages": turns} if chat else {"prompt": text}
    if begun is not None:
        if not chat:
            raise typer.BadParameter("--continue goes on with a chat, not with --no-chat")
        fields["messages"].append({"role": "assistant", "content": begun})
        fields["continue_final_message"] = True
    calls: list[Any] = []
    fields |= _adapter_fields(adapter or [])
    for event in client.stream(timeout_s=math.inf, **fields):
        calls += event.tool_calls
        text = event.content if fields["parse_answer"] else event.text
        typer.echo(json.dumps(to_dict(event)) if as_json else text, nl=as_json)
        sys.stdout.flush()
    if not as_json:
        _print_calls(calls)


@remote
def info(client: Client, as_json: AsJson = False) -> None:
    """Show what a running server runs."""
    answer = client.server_info()
    if as_json:
        return print_json(answer)
    fields = to_dict(answer)
    readiness = fields.pop("readiness", {})
    for key, value in fields.items():
        typer.echo(f"{key:16} {json.dumps(value) if isinstance(value, dict) else value}")
    _print_readiness(readiness)


def _print_readiness(readiness: dict[str, Any]) -> None:
    """Print the state, and a line for each adapter that is waited for. An older server has none."""
    state = readiness.get("state", "SERVER_STATE_UNSPECIFIED").removeprefix("SERVER_STATE_")
    typer.echo(f"{'state':16} {state.lower()}")
    waiting = readiness.get("waiting_for", [])
    for one in waiting:
        name = one["name"] or one["source"] or "what is declared"
        why = ": ".join(filter(None, (one["state"], one["error"])))
        typer.echo(f"{'waiting for':16} {name} ({why})")
    if (more := readiness.get("waiting_for_count", 0) - len(waiting)) > 0:
        typer.echo(f"{'waiting for':16} {more} more")


def _adapter_fields(given: list[str]) -> dict[str, Any]:
    weighted = [_weighted(text) for text in given]
    if len(weighted) == 1 and "weight" not in weighted[0]:
        return weighted[0]
    return {"adapters": weighted}


def _tool_choice(given: str) -> dict[str, Any]:
    if given in ("none", "auto", "required"):
        return {"mode": f"MODE_{given.upper()}"}
    return {"function": given}


def _print_calls(deltas: list[Any]) -> None:
    """End the text, and print a line for each call."""
    typer.echo()
    lines: dict[int, str] = {}
    for delta in deltas:
        lines[delta.index] = lines.get(delta.index, f"{delta.name} ") + delta.arguments
    for line in lines.values():
        typer.echo(line)


def _biases(given: list[str] | None) -> dict[int, float] | None:
    if given is None:
        return None
    pairs = [text.partition("=") for text in given]
    try:
        found = {int(token): float(bias) for token, _, bias in pairs}
        inference_pb2.GenerateRequest(logit_bias=found)
    except ValueError:
        raise typer.BadParameter("--logit-bias must be ID=BIAS, a token id and a number") from None
    if len(found) < len(given):
        raise typer.BadParameter("--logit-bias names a token twice")
    return found


def _json_object(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    why = ""
    try:
        if isinstance(found := json.loads(text), dict):
            # Halves of characters, numbers and levels beyond a message's show here.
            inference_pb2.GenerateRequest(chat_template_kwargs=found).SerializeToString()
            return found
    except (ValueError, OverflowError, RecursionError, EncodeError) as error:
        why = f": {error}"
    raise typer.BadParameter(f"--chat-template-kwargs must be a JSON object{why}")


def _weighted(text: str) -> dict[str, Any]:
    """Parse ID or ID=WEIGHT; what follows the last = and is no number belongs to the id."""
    adapter_id, _, weight = text.rpartition("=")
    try:
        return (
            {"adapter_id": adapter_id, "weight": float(weight)}
            if adapter_id
            else {"adapter_id": text}
        )
    except ValueError:
        return {"adapter_id": text}
