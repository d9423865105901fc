"""Servers that end under calls: deleted, killed, evicted."""

from __future__ import annotations

import json
import subprocess
import time

from cluster import POD, name, wait

from scenarios.stage import Stage

_EVICTION = {"apiVersion": "policy/v1", "kind": "Eviction"}


def deletion(stage: Stage) -> None:
    """A server's pod is deleted."""
    stage.prepare()
    with stage.calls("deletion of 1 of 2 servers"):
        stage.cluster.run("delete", "pod", stage.cluster.ready()[0], "--wait=false")
        stage.settle()


def kill(stage: Stage) -> None:
    """SIGKILL of each server's process: what runs in it is lost, but for calls that Envoy can try again."""
    stage.prepare()
    lost = ("Service", "Envoy streams")
    with stage.calls("SIGKILL of 2 servers, one after the other", lost):
        for victim in stage.cluster.ready():
            stage.cluster.kill(victim)
            stage.cluster.wait_restart(victim)
            stage.cluster.wait_ready(2)
            time.sleep(15)


def drain(stage: Stage) -> None:
    """A node is drained: kubectl drain where another node takes the pods, else its evictions alone."""
    stage.prepare()
    old = [*stage.cluster.pods(), *stage.routers()]
    nodes = json.loads(stage.cluster.run("get", "nodes", "-o", "json"))["items"]
    free = [
        one
        for one in nodes
        if not one["spec"].get("unschedulable") and not one["spec"].get("taints")
    ]
    if len(free) > 1:
        _drain_node(stage, str(old[0]["spec"]["nodeName"]))
        return
    with stage.calls("eviction of all servers and Envoys"):
        refusals = sum(_evict(stage, pod) for pod in old)
        stage.settle()
    stage.fact("evictions that the budget refused for now", str(refusals), refusals > 0)


def _drain_node(stage: Stage, node: str) -> None:
    with stage.calls("kubectl drain of a node"):
        try:
            chosen = f"--pod-selector=app.kubernetes.io/instance={stage.release.name}"
            more = ["--ignore-daemonsets", "--delete-emptydir-data", "--timeout=300s"]
            stage.cluster.run("drain", node, chosen, *more)
            stage.settle()
        finally:
            stage.cluster.run("uncordon", node)


def _evict(stage: Stage, pod: POD) -> int:
    """Evicts a pod as kubectl drain does: again every five seconds while the budget refuses it."""
    path = f"/api/v1/namespaces/{stage.cluster.namespace}/pods/{name(pod)}/eviction"
    body = json.dumps(_EVICTION | {"metadata": {"name": name(pod)}})
    refusals = 0

    def evicted() -> bool:
        nonlocal refusals
        command = stage.cluster.command("create", "--raw", path, "-f", "-")
        done = subprocess.run(command, input=body, capture_output=True, text=True)
        if done.returncode and "disruption budget" not in done.stderr:
            raise RuntimeError(f"eviction of {name(pod)}: {done.stderr.strip()}")
        refusals += bool(done.returncode)
        return not done.returncode

    wait(evicted, 300, f"eviction of {name(pod)}", pause=5)
    return refusals
