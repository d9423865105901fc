"""What the scenarios share: the release as it is at the beginning of each, calls, and rows of results."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster import POD, Cluster, is_ready, name, wait

from scenarios.loads import Caller, Names, Report
from scenarios.pki import Authority
from scenarios.release import Release, Values, merged
from scenarios.values import Images
from scenarios.verdict import Row


@dataclass
class Stage:
    cluster: Cluster
    release: Release
    images: Images
    values: Values
    authority: Authority
    caller: Caller
    tokens: dict[str, str]
    """Entries of tokens.yaml by the tokens that they are for."""
    crds: Path | None = None
    factor: float = 1
    scenario: str = ""
    rows: list[Row] = field(default_factory=list)

    def prepare(self, **changes: Any) -> None:
        """The release as it should be, all pods ready, and known to the Services and the DNS."""
        self.apply(**changes)
        self.settle()
        time.sleep(5)

    def apply(self, **changes: Any) -> None:
        self.release.apply(merged(self.values, changes))

    def settle(self, seconds: float = 420) -> None:
        """Waits until each Deployment has just the pods it asks for, of its last template, all ready."""
        wait(self.settled, seconds, f"end of changes: {self.unsettled()}")

    def settled(self) -> bool:
        return not self.unsettled()

    def unsettled(self) -> str:
        for deployment, selector in self._deployments():
            spec, status = deployment["spec"], deployment["status"]
            wanted, pods = spec["replicas"], self.pods(selector)
            if status.get("observedGeneration") != deployment["metadata"]["generation"]:
                return "a change is not seen"
            kinds = ("replicas", "updatedReplicas", "availableReplicas")
            if {status.get(kind, 0) for kind in kinds} != {wanted}:
                return f"{deployment['metadata']['name']}: {status}"
            if (
                selector != self.of_routers and len(pods) != wanted
            ):  # an Envoy that goes may take a minute
                return f"pods that end: {[name(pod) for pod in pods]}"
        return ""

    def _deployments(self) -> Iterator[tuple[dict[str, Any], str]]:
        of = ["-l", f"app.kubernetes.io/instance={self.release.name}", "-o", "json"]
        for one in json.loads(self.cluster.run("get", "deployments", *of))["items"]:
            labels = one["spec"]["selector"]["matchLabels"]
            yield (
                one,
                ",".join(
                    f"{key}={value}" for key, value in labels.items() if "instance" not in key
                ),
            )

    def pods(self, selector: str) -> list[POD]:
        """All pods of a selector, those that end too, oldest first."""
        found = json.loads(self.cluster.run("get", "pods", "-l", selector, "-o", "json"))["items"]
        return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    @property
    def of_routers(self) -> str:
        """The selector of Envoy's pods."""
        return f"app.kubernetes.io/name=loramux,app.kubernetes.io/component={self.release.front}"

    def routers(self) -> list[POD]:
        """Envoy's pods that serve."""
        found = self.pods(self.of_routers)
        return [
            one for one in found if is_ready(one) and "deletionTimestamp" not in one["metadata"]
        ]

    @contextmanager
    def calls(self, measure: str, killed: Names = (), refusing: Names = ()) -> Iterator[None]:
        """Calls by all ways while the block runs, some seconds before and after it; the names are
        those of `Loads.rows`."""
        loads = self.caller.begin(self.factor)
        try:
            time.sleep(6)
            yield
            time.sleep(10)
        except BaseException:
            loads.end()
            raise
        for row in loads.rows(measure, killed, refusing):
            self.add(row)

    def fact(self, measure: str, value: str, ok: bool | None = None, **notes: Any) -> None:
        """A row that is not of calls; `ok` says whether it is as it must be, None that it need not be anything."""
        self.add(
            {"measure": measure, "value": value, "ok": ok} | ({"notes": notes} if notes else {})
        )

    def add(self, row: Row) -> None:
        row = {"scenario": self.scenario} | row
        print(json.dumps(row, ensure_ascii=False), flush=True)
        self.rows.append(row)

    def probe(self, *targets: str, token: str = "", adapter: str = "") -> dict[str, Report]:
        """Asks addresses of servers or Envoys for one token; gives status and certificate of each."""
        asked = {
            "targets": targets,
            "name": self.release.full,
            "token": token or self.caller.token,
            "adapter": adapter,
        }
        code = (Path(__file__).parent / "probe.py").read_text()
        return dict(json.loads(self.cluster.python("client", code, json.dumps(asked))))

    def debug(self, pod: str, code: str, target: str = "envoy") -> str:
        """Runs Python in a new container of a pod whose image has none, beside its processes; gives its output."""
        attempt = (
            f"debug-{len(self.cluster.get('pod', pod)['spec'].get('ephemeralContainers', []))}"
        )
        flags = ["--image", self.images.server, "--image-pull-policy=IfNotPresent", "-q"]
        more = ["--profile=restricted", "--target", target, "-c", attempt, "--attach=false"]
        self.cluster.run("debug", pod, *flags, *more, "--", "python", "-c", code)
        wait(lambda: _ended(self.cluster.get("pod", pod), attempt), 60, "end of the container")
        return self.cluster.run("logs", pod, "-c", attempt)

    def addresses(self) -> list[str]:
        """gRPC's addresses of the servers and Envoys that there are."""
        found = [*self.cluster.pods(), *self.routers()]
        return [f"{pod['status']['podIP']}:50051" for pod in found]


def _ended(pod: POD, container: str) -> bool:
    found = pod["status"].get("ephemeralContainerStatuses") or []
    return any(one["name"] == container and "terminated" in one["state"] for one in found)
