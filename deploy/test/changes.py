"""Scenarios in which what runs is changed, rightly or wrongly."""

from __future__ import annotations

import json
import time
from functools import partial

import overlay
from bench import Bench
from cluster import container, name, wait
from load import UNARY

_COUNT = """
import re, urllib.request
text = urllib.request.urlopen("http://localhost:9464/metrics").read().decode()
print(sum(float(n) for n in re.findall(r"^loramux_requests_total\\{.*\\} (\\S+)", text, re.M)))
"""


def scale(bench: Bench) -> None:
    """1 → 3 → 1 pods under a channel that was there before: do the new pods get calls?"""
    age = overlay.setting("max_connection_age_s")
    short = {"LORAMUX_MAX_CONNECTION_AGE_S": "60"} if age > 60 else {}
    bench.deploy(1, env=short)
    load = bench.client.load(UNARY)
    time.sleep(5)
    bench.cluster.run("scale", "deployment/loramux", "--replicas=3")
    bench.cluster.wait_ready(3)
    time.sleep(min(age, 60) + 30)  # a client looks at the DNS again at most every 30 s
    before = served(bench)
    time.sleep(25)
    after = served(bench)
    bench.cluster.run("scale", "deployment/loramux", "--replicas=1")
    wait(lambda: bench.settled(1), 120, "end of two pods")
    time.sleep(10)
    bench.calls("scale 1 → 3 → 1, short calls on one old channel", load.end())
    each = " / ".join(f"{after[pod] - before[pod]:.0f}" for pod in after)
    bench.fact(
        "scale 1 → 3 → 1: calls of each of the 3 pods in 25 s",
        each,
        max_connection_age_s=min(age, 60),
    )


def served(bench: Bench) -> dict[str, float]:
    """Requests that each pod has ended, oldest pod first."""
    pods = [name(pod) for pod in bench.cluster.pods()]
    return {pod: float(bench.cluster.python(pod, _COUNT)) for pod in pods}


def broken(bench: Bench) -> None:
    """An entry whose directory is missing: in running pods, in a rollout, and after a crash."""
    bench.deploy()
    cluster, old = bench.cluster, bench.cluster.ready()
    load = bench.client.load(UNARY)
    declare_missing(bench, old)
    kept = cluster.ready()
    cluster.run("rollout", "restart", "deployment/loramux")
    wait(lambda: len(cluster.pods()) == 3, 60, "third pod")
    new = name(cluster.pods()[-1])
    wait(
        lambda: any('"serving"' in line for line in cluster.logs(new)),
        90,
        "start of the new server",
    )
    time.sleep(20)
    stopped = new not in cluster.ready()
    bench.calls("broken entry, then a rollout: short calls", load.end())
    bench.fact("broken entry: pods of 2 that stay ready", str(len(kept)))
    bench.fact("broken entry: the rollout stops at the new pod", "yes" if stopped else "no")
    said = [line for line in cluster.logs(new) if "missing" in line]
    bench.fact(
        "broken entry: lines in the new pod's log that name it", str(len(said)), lines=said[:3]
    )
    crash(bench, old[0])


def declare_missing(bench: Bench, pods: list[str]) -> None:
    """Adds the entry; annotating a pod makes its node look at once, not within a minute."""
    file = bench.cluster.get("configmap", "loramux-adapters")["data"]["adapters.yaml"]
    text = file.rstrip() + "\n  - name: missing\n    source: /models/adapters/missing\n"
    change = json.dumps({"data": {"adapters.yaml": text}})
    bench.cluster.run("patch", "configmap", "loramux-adapters", "--type=merge", "-p", change)
    for pod in pods:
        bench.cluster.run("annotate", "pod", pod, "loramux.test/look=now", "--overwrite")
        wait(partial(shows, bench, pod), 120, "edit in the pod")
    time.sleep(12)  # two looks of the server at its file


def shows(bench: Bench, pod: str) -> bool:
    read = "print(open('/etc/loramux-adapters/adapters.yaml').read())"
    return "missing" in bench.cluster.python(pod, read)


def crash(bench: Bench, pod: str) -> None:
    """One of the two that serve is killed: it must come back although the entry is broken."""
    load = bench.client.load(UNARY)
    time.sleep(3)
    bench.cluster.kill(pod)
    bench.cluster.wait_restart(pod)
    try:
        seconds = wait(lambda: pod in bench.cluster.ready(), 90, "ready pod")
        bench.fact("broken entry: ready again after SIGKILL", f"yes, {seconds:.0f} s")
    except TimeoutError:
        bench.fact("broken entry: ready again after SIGKILL", "no, not in 90 s")
    time.sleep(5)
    bench.calls("broken entry: SIGKILL of 1 of 2 servers, short calls", load.end())


def service(bench: Bench) -> None:
    """A Service with an address and the name loramux: Kubernetes then sets LORAMUX_PORT=tcp://…"""
    bench.deploy(0, cluster_ip=True)
    time.sleep(3)
    bench.cluster.run("scale", "deployment/loramux", "--replicas=1")
    outcome(bench, "a ClusterIP Service called loramux")


def unreadable(bench: Bench) -> None:
    """Weights that the server's user cannot read."""
    if bench.target.models:
        raise ValueError("this scenario makes its own models: leave out --models")
    bench.deploy(0, unreadable=True)
    bench.cluster.run("scale", "deployment/loramux", "--replicas=1")
    outcome(bench, "weights of mode 0600")


def outcome(bench: Bench, measure: str) -> None:
    """Whether the only pod serves, else the last thing that its log says."""
    wait(bench.cluster.pods, 30, "pod")
    pod = bench.crashed_or_ready()
    lines = bench.cluster.logs(name(pod), previous=bool(container(pod)["restartCount"]))
    ready = bool(bench.cluster.ready())
    _, strange = bench.strange_lines()
    value = "serves" if ready else f"does not start: {reason(lines)}"
    plain = f" ({len(strange)} lines of its log are not JSON)" if strange else ""
    bench.fact(measure, value + plain, log=lines[-3:])


def reason(lines: list[str]) -> str:
    """What the last line that tells of an error says, without what all lines have."""
    for line in reversed(lines):
        try:
            said = json.loads(line)
        except ValueError:
            return line
        if said.pop("level") in ("error", "critical"):
            return ", ".join(str(said[key]) for key in ("event", "error") if key in said)
    return "nothing in the log says why"
