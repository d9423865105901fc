"""kubectl in one namespace, as the caller's KUBECONFIG reaches it, and what tests ask of pods."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

POD = dict[str, Any]
SERVERS = "app.kubernetes.io/name=loramux,app.kubernetes.io/component=server"
"""Selector of the server's pods."""


class Cluster:
    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def command(self, *args: str) -> list[str]:
        return ["kubectl", "--namespace", self.namespace, *args]

    def run(self, *args: str, stdin: str | bytes | None = None, check: bool = True) -> str:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(self.command(*args), input=data, capture_output=True)
        if check and done.returncode:
            raise RuntimeError(f"kubectl {' '.join(args)[:200]}: {done.stderr.decode().strip()}")
        return done.stdout.decode()

    def apply(self, *objects: dict[str, Any]) -> None:
        self.run(
            "apply",
            "-f",
            "-",
            stdin=json.dumps({"kind": "List", "apiVersion": "v1", "items": objects}),
        )

    def get(self, kind: str, name: str) -> Any:
        return json.loads(self.run("get", kind, name, "-o", "json"))

    def python(self, pod: str, code: str, *args: str, check: bool = True) -> str:
        """Runs Python in a pod: the one program that its image surely has."""
        return self.run("exec", pod, "--", "python", "-c", code, *args, check=check)

    def pods(self) -> list[POD]:
        """The server's pods that are not being deleted, oldest first."""
        found = json.loads(self.run("get", "pods", "-l", SERVERS, "-o", "json"))["items"]
        living = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
        return sorted(living, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def ready(self) -> list[str]:
        return [name(pod) for pod in self.pods() if is_ready(pod)]

    def logs(self, pod: str, previous: bool = False) -> list[str]:
        flags = ["--previous"] if previous else []
        return self.run("logs", pod, "-c", "loramux", *flags, check=False).splitlines()

    def kill(self, pod: str) -> None:
        """SIGKILL for the server, from inside its container.

        The first process of a container gets none from its neighbours; the kernel's own, for a
        limit of CPU seconds that is passed, it gets.
        """
        self.python(pod, "import resource as r; r.prlimit(1, r.RLIMIT_CPU, (1, 1))", check=False)

    def wait_ready(self, count: int, seconds: float = 180) -> float:
        """Waits until exactly `count` pods live and all are ready; returns the seconds."""
        return wait(
            lambda: len(self.ready()) == len(self.pods()) == count, seconds, f"{count} ready pods"
        )

    def wait_restart(self, pod: str) -> None:
        """Waits until the server's container has begun again, once."""
        count = lambda: container(self.get("pod", pod))["restartCount"]  # noqa: E731
        wait(count, 60, "restart of the container")


def name(pod: POD) -> str:
    return str(pod["metadata"]["name"])


def is_ready(pod: POD) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def container(pod: POD) -> dict[str, Any]:
    """Kubernetes' status of the server's container."""
    states = pod["status"].get("containerStatuses") or [{"state": {}, "restartCount": 0}]
    return dict(states[0])


def wait(until: Callable[[], Any], seconds: float, what: str, pause: float = 0.5) -> float:
    start = time.monotonic()
    while not until():
        if time.monotonic() - start > seconds:
            raise TimeoutError(f"no {what} within {seconds:.0f} s")
        time.sleep(pause)
    return time.monotonic() - start
