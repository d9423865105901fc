"""A container of an image as a cluster would start it at its strictest: no root, no network, no
capability, and nothing that can be written but /tmp."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

STRICT = (
    *("--read-only", "--network", "none", "--cap-drop", "all"),
    *("--security-opt", "no-new-privileges", "--tmpfs", "/tmp:rw,mode=1777"),
)
MODELS = Path(__file__).parents[1] / "test" / "models.py"
_START = (
    "python /models.py /tmp/models && exec loramux serve --base /tmp/models/base "
    "--adapter support=/tmp/models/adapters/support --kv-cache-bytes 67108864 --threads 1"
)
_START_S = 300


class Engine:
    """podman, docker, or a command line that is like theirs."""

    def __init__(self, command: str) -> None:
        self._command = shlex.split(command)

    def line(self, *arguments: str) -> list[str]:
        return [*self._command, *arguments]

    def run(self, *arguments: str) -> str:
        """Its output. Raises RuntimeError with what it says."""
        done = subprocess.run(self.line(*arguments), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{shlex.join(arguments)[:200]}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def once(self, image: str, *command: str) -> str:
        """Output of a command in a container of its own."""
        program, *arguments = command
        return self.run("run", "--rm", *STRICT, "--entrypoint", program, image, *arguments)


class Server:
    """`loramux serve` in a container, with a small random base and the adapter "support"."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine, self._name = engine, name

    def call(self, *command: str) -> str:
        return self._engine.run("exec", self._name, *command)

    def wait(self) -> float:
        """Seconds until `loramux health` says that it is ready. Raises RuntimeError with its log."""
        started = time.monotonic()
        while True:
            try:
                self.call("loramux", "health")
                return time.monotonic() - started
            except RuntimeError as error:
                if not self._runs() or time.monotonic() - started > _START_S:
                    raise RuntimeError(f"it is not ready: {error}\n{self.log()}") from None
                time.sleep(0.5)

    def _runs(self) -> bool:
        state = self._engine.run("inspect", "--format", "{{.State.Running}}", self._name)
        return state.strip() == "true"

    def log(self) -> str:
        done = subprocess.run(
            self._engine.line("logs", self._name), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        return done.stdout.decode(errors="replace")

    def stop(self) -> int:
        """The server's exit status after SIGTERM."""
        self._engine.run("kill", "--signal", "TERM", self._name)
        return int(self._engine.run("wait", self._name))

    def tokens(self, *options: str) -> int:
        """Tokens of an answer of the adapter's."""
        said = self.call(
            "loramux", "generate", "hi", "--no-chat", "-a", "support", "--json", *options
        )
        events = [json.loads(line) for line in said.splitlines()]
        return sum(len(event.get("token_ids", [])) for event in events)


@contextlib.contextmanager
def serving(engine: Engine, image: str, *options: str) -> Iterator[Server]:
    name = f"loramux-image-{time.time_ns():x}"
    mount = ("--volume", f"{MODELS}:/models.py:ro")
    start = ("-c", f"{_START} {shlex.join(options)}")
    engine.run(
        *("run", "--detach", "--name", name, *STRICT, *mount, "--entrypoint", "sh", image, *start)
    )
    try:
        yield Server(engine, name)
    finally:
        engine.run("rm", "--force", name)
