"""Scenarios in which servers end and start while calls come in."""

from __future__ import annotations

import json
import time
from typing import Any

import overlay
from bench import Bench
from cluster import container, name, wait
from load import STREAMS, UNARY, Calls

KINDS = {"short calls": UNARY, "60-token streams": STREAMS}


def rollout(bench: Bench) -> None:
    """All pods are replaced."""
    for kind, calls in KINDS.items():
        bench.deploy()
        load = bench.client.load(calls)
        time.sleep(5)
        bench.cluster.run("rollout", "restart", "deployment/loramux")
        bench.cluster.run("rollout", "status", "deployment/loramux", "--timeout=300s")
        wait(bench.settled, 120, "end of the old pods")
        time.sleep(10)
        bench.calls(f"rollout of 2 pods, {kind}", load.end())


def deletion(bench: Bench) -> None:
    """A pod is deleted while four long streams run on it, which it may finish."""
    bench.deploy()
    pod = bench.cluster.pods()[0]
    address = pod["status"]["podIP"]
    load = bench.client.load(UNARY)
    trial = bench.client.at_once(Calls("GenerateStream", 400), 4, address).result()
    # 8 s at the speed of just now, twice that in truth since long contexts are slower: less than drain_s.
    tokens = min(int(400 / trial["longest_s"] * 8), 30000)
    long = bench.client.at_once(Calls("GenerateStream", tokens), 4, address)
    time.sleep(4)
    bench.cluster.run("delete", "pod", name(pod), "--wait=false")
    streams = long.result()
    wait(bench.settled, 120, "end of the old pod")
    time.sleep(max(5, 35 - load.seconds()))
    bench.calls("deletion of 1 of 2 pods, short calls beside four long streams", load.end())
    bench.calls("deletion of 1 of 2 pods, its four long streams", streams, tokens=tokens)


def kill(bench: Bench) -> None:
    """SIGKILL of each in turn: the container starts again in the same pod, under the same address."""
    for kind, calls in KINDS.items():
        bench.deploy()
        load = bench.client.load(calls)
        for victim in bench.cluster.ready():
            time.sleep(5)
            bench.cluster.kill(victim)
            bench.cluster.wait_restart(victim)
            bench.cluster.wait_ready(2)
            time.sleep(15)  # the client's own pause before it tries again has grown meanwhile
        bench.calls(f"SIGKILL of 2 servers, one after the other, {kind}", load.end())


def early(bench: Bench) -> None:
    """Deletion of a pod that has only begun: with no handler, the first process ignores SIGTERM."""
    bench.deploy(0)
    grace = bench.cluster.get("deployment", "loramux")["spec"]["template"]["spec"]
    for after in (1, 4):
        seconds, code = end_of_pod(bench, after)
        value = f"{seconds:.1f} s, exit code {code}"
        period = grace["terminationGracePeriodSeconds"]
        bench.fact(f"SIGTERM {after} s after the start, time to end", value, grace_period_s=period)


KEEP = "loramux.test/keep"


def end_of_pod(bench: Bench, after: float) -> tuple[float, int]:
    """Seconds from the deletion to the end, and the exit code; a finalizer keeps the pod to be read."""
    cluster, pod = bench.cluster, f"early-{after}"
    template = cluster.get("deployment", "loramux")["spec"]["template"]["spec"]
    meta = {"name": pod, "finalizers": [KEEP]}
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template})
    try:
        state: Any = lambda: container(cluster.get("pod", pod))["state"]  # noqa: E731
        wait(lambda: "running" in state(), 60, "start of the container", pause=0.1)
        time.sleep(after)
        cluster.run("delete", "pod", pod, "--wait=false")
        start = time.monotonic()
        wait(lambda: "terminated" in state(), 150, "end of the container", pause=0.1)
        return time.monotonic() - start, state()["terminated"]["exitCode"]
    finally:
        change = json.dumps({"metadata": {"finalizers": None}})
        cluster.run("patch", "pod", pod, "--type=merge", "-p", change)
        cluster.run("delete", "pod", pod, "--ignore-not-found", "--wait=false")


def idle(bench: Bench) -> None:
    """SIGTERM to exit without a request, as a neighbour in the container sees it; and the log."""
    bench.deploy(1, env={"LORAMUX_DRAIN_DELAY_S": "0"} if overlay.setting("drain_delay_s") else {})
    pod = name(bench.cluster.pods()[0])
    bare = timed(bench, pod, "pass")
    ended = timed(bench, pod, "import os, time; os.kill(1, 15); time.sleep(600)")
    bench.cluster.wait_restart(pod)
    bench.cluster.wait_ready(1)
    bench.fact("SIGTERM to exit, idle", f"{ended - bare:.1f} s")
    count, strange = bench.strange_lines([pod])
    bench.fact(
        "SIGTERM to exit, idle: lines of the log that are not JSON",
        f"{len(strange)} of {count}",
        lines=strange[:5],
    )


def timed(bench: Bench, pod: str, code: str) -> float:
    start = time.monotonic()
    bench.cluster.python(pod, code, check=False)
    return time.monotonic() - start
