"""What scenarios share: a deployment made anew for each, its logs, and rows of results."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import overlay
from cluster import POD, SERVERS, Cluster, container, name, wait
from load import Client

Row = dict[str, Any]


@dataclass
class Bench:
    cluster: Cluster
    target: overlay.Target
    client: Client
    rows: list[Row] = field(default_factory=list)

    def deploy(self, replicas: int = 2, **changes: Any) -> None:
        """New pods, ready and in the DNS: neither restarts nor edits of a scenario before are left."""
        self.remove()
        overlay.apply(self.cluster, self.target, overlay.Variant(replicas, **changes))
        if replicas:
            self.cluster.wait_ready(replicas)
            time.sleep(5)  # the Service and the DNS follow

    def remove(self) -> None:
        self.cluster.run("delete", "deployment,service", "loramux", "--ignore-not-found")
        wait(lambda: not self.everything(), 120, "end of the pods")

    def everything(self) -> list[POD]:
        """The server's pods, those that end too."""
        return list(
            json.loads(self.cluster.run("get", "pods", "-l", SERVERS, "-o", "json"))["items"]
        )

    def settled(self, replicas: int = 2) -> bool:
        """Whether just so many pods are left and all are ready."""
        return len(self.everything()) == len(self.cluster.ready()) == replicas

    def calls(self, measure: str, result: dict[str, Any], **notes: Any) -> None:
        self._add({"measure": measure, **result, "notes": notes})

    def fact(self, measure: str, value: str, **notes: Any) -> None:
        self._add({"measure": measure, "value": value, "notes": notes})

    def _add(self, row: Row) -> None:
        """Adds a row; calls of a scenario that is named more than once are added up."""
        print(json.dumps(row, ensure_ascii=False), flush=True)
        for old in self.rows:
            if old["measure"] == row["measure"] and "calls" in row:
                for key in ("calls", "failed"):
                    old[key] += row[key]
                for key in ("by_status", "errors"):
                    old[key] = dict(Counter(old[key]) + Counter(row[key]))
                old["runs"] = old.get("runs", 1) + 1
                return
        self.rows.append(row)

    def strange_lines(self, pods: list[str] | None = None) -> tuple[int, list[str]]:
        """How many lines the pods' logs have, and which are not JSON objects."""
        lines = []
        for pod in pods or [name(one) for one in self.everything()]:
            lines += self.cluster.logs(pod) + self.cluster.logs(pod, previous=True)
        return len(lines), [line for line in lines if not _is_object(line)]

    def crashed_or_ready(self, seconds: float = 90) -> POD:
        """The only pod, once its container has ended or serves."""
        ready = self.cluster.ready
        wait(lambda: ready() or self._ended(), seconds, "start or end of the server")
        return self.cluster.pods()[0]

    def _ended(self) -> bool:
        return any(container(pod)["restartCount"] for pod in self.cluster.pods())


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
