"""The demo: one server, one batch, four personalities.

Starts `loramux serve` with the three demo adapters, streams two questions to the base model and to
every adapter at once, shows the answers side by side with their timings, and stops the server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from fetch_base import DEFAULT_TARGET
from grpc_health.v1 import health_pb2, health_pb2_grpc
from loramux.v1 import inference_pb2, inference_pb2_grpc
from rich.console import Console
from rich.live import Live
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
ADAPTERS = ROOT / "examples/adapters"
COLUMNS = ["", "pirate", "json", "sentiment"]
QUESTIONS = ["What is the capital of France?", "I loved every minute of the trip!"]
START_TIMEOUT_S = 300
STOP_TIMEOUT_S = 60
NEXT = """
Next:
  make serve                                             leave such a server running, on ports 50051 and 8000
  .venv/bin/loramux generate -a pirate "Tell me a joke"  ask it from a second terminal; without -a: the base model
  .venv/bin/loramux adapters list                        see what it serves; or http://localhost:8000/ in a browser
  README.md                                              models and adapters of your own, training, the API"""


@dataclass
class Answer:
    """The part of one stream that has arrived so far; times in seconds since it was sent."""

    text: str = ""
    tokens: int = 0
    first: float = 0.0
    total: float = 0.0

    def cell(self) -> str:
        timing = f"\n\n[dim]first token {self.first * 1e3:.0f} ms · {self.tokens} tokens in {self.total:.2f} s[/dim]"
        return self.text + (timing if self.total else "")


async def ask(
    stub: inference_pb2_grpc.InferenceStub, adapter: str, question: str, answer: Answer
) -> None:
    """Stream one answer into `answer`."""
    sent = time.monotonic()
    request = inference_pb2.GenerateRequest(adapter_id=adapter, max_new_tokens=48)
    request.messages.add(role="user", content=question)
    async for event in stub.GenerateStream(request):
        answer.first = answer.first or time.monotonic() - sent
        answer.text += event.text
        answer.tokens += len(event.token_ids)
    answer.total = time.monotonic() - sent


def render(answers: dict[tuple[str, str], Answer]) -> Table:
    table = Table(
        "question", *(name or "base model" for name in COLUMNS), show_lines=True, expand=True
    )
    for question in QUESTIONS:
        table.add_row(question, *(answers[name, question].cell() for name in COLUMNS))
    return table


async def stream_all(target: str, console: Console) -> dict[str, Any]:
    """Stream all answers at once and give them with their times in seconds.

    On a terminal the table fills while they run; elsewhere it is printed at the end.
    """
    answers = {(name, question): Answer() for question in QUESTIONS for name in COLUMNS}
    started = time.monotonic()
    async with grpc.aio.insecure_channel(target) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        calls = asyncio.gather(
            *(ask(stub, name, question, answers[name, question]) for name, question in answers)
        )
        if console.is_terminal:
            with Live(render(answers), console=console, auto_refresh=False) as live:
                while not calls.done():
                    await asyncio.wait({calls}, timeout=0.1)
                    live.update(render(answers), refresh=True)
        await calls
    if not console.is_terminal:
        console.print(render(answers))
    wall = time.monotonic() - started
    alone = sum(answer.total for answer in answers.values())
    say(
        console,
        f"{len(answers)} streams over {len(COLUMNS)} models at once took {wall:.2f} s; their durations "
        f"add up to {alone:.2f} s",
    )
    return {
        "streams_s": wall,
        "sum_s": alone,
        "answers": [
            {
                "adapter": name,
                "question": question,
                "text": answer.text,
                "tokens": answer.tokens,
                "first_s": answer.first,
                "total_s": answer.total,
            }
            for (name, question), answer in answers.items()
        ],
    }


@contextlib.asynccontextmanager
async def server(base: Path, device: str, console: Console) -> AsyncIterator[str]:
    """A server process; yields its address once it is SERVING, stops it with SIGTERM."""
    target = f"127.0.0.1:{free_port()}"
    log = base.parent / "demo-server.log"
    # By the folder's name, from the checkout: nothing of loramux needs to be installed.
    command = [
        sys.executable,
        "-m",
        "server",
        "serve",
        "--base",
        str(base.resolve()),
        "--device",
        device,
        "--port",
        target.split(":")[1],
        "--http-port",
        "0",
        "--metrics-port",
        "0",
    ]
    for name in COLUMNS[1:]:
        command += ["--adapter", f"{name}={ADAPTERS / name}"]
    say(console, f"== starting a server (its log: {log}): ", end="")
    started = time.monotonic()
    with log.open("w") as stream:
        process = subprocess.Popen(command, cwd=ROOT, stderr=stream)
    try:
        await wait_until_serving(target, process, log)
        say(console, f"it serves on {target} ({time.monotonic() - started:.0f} s)")
        yield target
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(STOP_TIMEOUT_S)
        say(console, f"== the server is stopped, its exit status is {code}")
    if code:
        raise SystemExit(code)


async def wait_until_serving(target: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Watch the health service. Ends the demo if the process dies first."""
    serving = health_pb2.HealthCheckResponse.SERVING
    async with grpc.aio.insecure_channel(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for _ in range(START_TIMEOUT_S * 2):
            if process.poll() is not None:
                break
            with contextlib.suppress(grpc.aio.AioRpcError):
                if (await stub.Check(health_pb2.HealthCheckRequest(), timeout=2)).status == serving:
                    return
            await asyncio.sleep(0.5)
    raise SystemExit(f"the server did not start:\n{log.read_text()[-2000:]}")


def say(console: Console, text: str, end: str = "\n") -> None:
    """As it is: rich would colour numbers and break lines."""
    console.print(text, end=end, markup=False, highlight=False, soft_wrap=True)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, default=DEFAULT_TARGET)
    parser.add_argument("--device", default="auto", help="the server's")
    parser.add_argument("--json", type=Path, help="write the answers there too")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    started = time.monotonic()
    async with server(options.base, options.device, console) as target:
        start = time.monotonic() - started
        answers = await stream_all(target, console)
    if options.json:
        options.json.write_text(json.dumps({"start_s": start, **answers}, indent=1) + "\n")
    say(console, NEXT)


if __name__ == "__main__":
    asyncio.run(main())
