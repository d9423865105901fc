"""`loramux train --publish`: a new adapter into a running server, and one answer beside the base's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import typer

from ..client import CallError, Client

_HINTS = {
    grpc.StatusCode.PERMISSION_DENIED:
        "The server loads only below its adapter roots, and only for a token that may: start it with --adapter-root of "
        "a directory above {path} or train into one below its root; a token needs admin and this adapter in its scope.",
    grpc.StatusCode.INVALID_ARGUMENT:
        "The server must see the directory: where {path} has another name on its machine, give that as --publish-path.",
    grpc.StatusCode.FAILED_PRECONDITION: "The server must serve the base that the adapter was trained on.",
}


@dataclass(frozen=True)
class Publication:
    """Where a trained adapter goes. `path`: its directory as the server sees it."""

    client: Client
    name: str
    path: str

    def check(self, base: Path) -> None:
        """Before a long training: the server can be reached. Raises CallError."""
        served = self.client.server_info().base_model
        if served not in (base.resolve().name, str(base)):
            typer.echo(f"note: the server's base is called {served}, this one {base.resolve().name}", err=True)

    def load(self) -> None:
        """Raises CallError, with what to do about it."""
        try:
            adapter = self.client.load_adapter(path=self.path, adapter_id=self.name)
        except CallError as error:
            hint = _HINTS.get(error.code) if error.code is not None else None
            words = hint.format(path=self.path) if hint else "The adapter is written."
            raise CallError(
                f"{error}\n{words}\nThen: loramux adapters load {self.path} --name {self.name}", error.code) from error
        typer.echo(f"{self.client.target} serves {adapter.adapter_id}, version {adapter.version[:12]}")

    def compare(self, prompt: str | tuple[dict[str, str], ...], max_new_tokens: int = 64) -> None:
        """The prompt and its two greedy answers, base first. Raises CallError."""
        fields: dict[str, Any] = {"prompt": prompt} if isinstance(prompt, str) else {"messages": list(prompt)}
        asked = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        typer.echo(f"{'prompt':12} {asked}")
        for label, adapter_id in (("base", ""), (self.name, self.name)):
            events = self.client.stream(adapter_id=adapter_id, max_new_tokens=max_new_tokens, **fields)
            typer.echo(f"{label:12} {''.join(event.text for event in events).strip()}")
