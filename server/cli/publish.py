"""Publication of a trained adapter, `loramux train --publish`: into a running server, with one
answer beside the base's."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import typer
from loramux_client import CallError, Client

_HINTS = {
    grpc.StatusCode.PERMISSION_DENIED: "The server loads only below its adapter roots, and only for a "
    "token that may: start it with --adapter-root of a directory above {path} or train into one "
    "below its root; a token needs admin and this adapter in its scope.",
    grpc.StatusCode.INVALID_ARGUMENT: "If the server sees the directory {path} under another "
    "name on its machine, --publish-path is that name.",
    grpc.StatusCode.FAILED_PRECONDITION: "The server must serve the base that the adapter was trained on.",
}
_NO_CANARY = -1.0
"""Canary weight that every server refuses, but behind token and path."""


@dataclass(frozen=True)
class Publication:
    """Publication of a trained adapter. `path`: its directory as the server sees it."""

    client: Client
    name: str
    path: str

    def check(self, base: Path) -> None:
        """Check, before a long training, that the server can be reached and would load from there
        for us. Raises CallError."""
        served = self.client.server_info().base_model
        if served not in (base.resolve().name, str(base)):
            typer.echo(
                f"note: the server's base is called {served}, this one {base.resolve().name}",
                err=True,
            )
        try:
            self.client.load_adapter(path=self.path, adapter_id=self.name, canary_weight=_NO_CANARY)
        except CallError as error:
            if error.code is not grpc.StatusCode.INVALID_ARGUMENT or "canary_weight" not in str(
                error
            ):
                raise CallError(f"{error}\n{self._hint(error)}".rstrip(), error.code) from error

    def load(self) -> None:
        """Load the adapter into the server. Raises CallError, with what to do about it."""
        try:
            adapter = self.client.load_adapter(path=self.path, adapter_id=self.name)
        except CallError as error:
            words = self._hint(error) or "The adapter is written."
            raise CallError(f"{error}\n{words}\nThen: {self.command}", error.code) from error
        typer.echo(
            f"{self.client.target} serves {adapter.adapter_id}, version {adapter.version[:12]}"
        )

    @property
    def command(self) -> str:
        """Command that loads the adapter by hand; a token is not in it."""
        client = self.client
        reach = [
            part
            for flag, value in (("--ca", client.ca), ("--cert", client.cert), ("--key", client.key))
            if value
            for part in (flag, str(value))
        ]
        return shlex.join(
            [
                "loramux",
                "adapters",
                "load",
                self.path,
                "--name",
                self.name,
                "--target",
                client.target,
                *(["--tls"] if client.tls else []),
                *reach,
            ]
        )

    def _hint(self, error: CallError) -> str:
        hint = _HINTS.get(error.code) if error.code is not None else None
        return hint.format(path=self.path) if hint else ""

    def compare(self, prompt: str | tuple[dict[str, str], ...], max_new_tokens: int = 64) -> None:
        """Show the prompt and its two greedy answers, base first.

        Raises CallError; not for a token that may not ask one of the two, which is said.
        """
        fields: dict[str, Any] = (
            {"prompt": prompt} if isinstance(prompt, str) else {"messages": list(prompt)}
        )
        asked = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        typer.echo(f"{'prompt':12} {asked}")
        for label, adapter_id in (("base", ""), (self.name, self.name)):
            try:
                events = self.client.stream(
                    adapter_id=adapter_id, max_new_tokens=max_new_tokens, **fields
                )
                typer.echo(f"{label:12} {''.join(event.text for event in events).strip()}")
            except CallError as error:
                if error.code is not grpc.StatusCode.PERMISSION_DENIED:
                    raise CallError(
                        f"{self.name} is served, but did not answer: {error}", error.code
                    ) from error
                typer.echo(f"{label:12} not asked: {error}")
