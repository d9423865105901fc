"""Who reaches whom: the NetworkPolicies tried from pods, each refusal beside something that is let through."""

from __future__ import annotations

import json
from collections.abc import Iterator

from cluster import Cluster, name
from overlay import client

from scenarios.stage import Stage

_LISTEN = """
import http.server
http.server.ThreadingHTTPServer(("", 9999), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
_TRY = """
import json, socket, sys
def reached(host, port):
    try:
        socket.create_connection((host, port), timeout=4).close()
        return True
    except OSError:
        return False
print(json.dumps([reached(host, port) for host, port in json.loads(sys.argv[1])]))
"""
Target = tuple[str, int]
Tried = tuple[str, bool, bool]
"""What was tried, whether it was reached, and whether it must be."""


def policies(stage: Stage) -> None:
    """Metrics from two namespaces, of which one is let in; and what servers and Envoys reach."""
    own = stage.cluster.namespace
    stranger, monitor = Cluster(f"{own}-stranger"), Cluster(f"{own}-monitor")
    among = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": monitor.namespace}}
    }
    try:
        for other in (stranger, monitor):
            other.apply(
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other.namespace}}
            )
            other.apply(listener(stage.images.server))
        stage.prepare(networkPolicy={"metricsFrom": [among]})
        for other in (stranger, monitor):
            other.run("wait", "--for=condition=Ready", "pod/client", "--timeout=120s")
        told(stage, [*inwards(stage, stranger, monitor), *outwards(stage, address(stranger))])
    finally:
        for other in (stranger, monitor):
            other.run("delete", "namespace", other.namespace, "--wait=false", check=False)


def listener(image: str) -> dict[str, object]:
    """A pod that anyone may connect to, at port 9999."""
    pod = client(image)
    pod["spec"]["containers"][0]["command"] = ["python", "-c", _LISTEN]
    return pod


def address(cluster: Cluster) -> str:
    return str(cluster.get("pod", "client")["status"]["podIP"])


def inwards(stage: Stage, stranger: Cluster, monitor: Cluster) -> Iterator[Tried]:
    for what, pods in (("servers", stage.cluster.pods()), ("Envoys", stage.routers())):
        ip = str(pods[0]["status"]["podIP"])
        yield f"{what}: calls from another namespace", tried(stranger, (ip, 50051)), True
        yield f"{what}: metrics from another namespace", tried(stranger, (ip, 9464)), False
        yield f"{what}: metrics from their own", tried(stage.cluster, (ip, 9464)), False
        yield f"{what}: metrics from one that is named", tried(monitor, (ip, 9464)), True


def outwards(stage: Stage, elsewhere: str) -> Iterator[Tried]:
    """What the client reaches, servers and Envoys must not."""
    server, router = name(stage.cluster.pods()[0]), name(stage.routers()[0])
    api = stage.cluster.run("get", "endpoints", "kubernetes", "--namespace=default", "-o", "json")
    subset = json.loads(api)["subsets"][0]
    targets = {
        "a pod of another namespace": (elsewhere, 9999),
        "the API server": (subset["addresses"][0]["ip"], subset["ports"][0]["port"]),
    }
    for what, target in targets.items():
        yield f"client to {what}", tried(stage.cluster, target), True
        yield f"server to {what}", tried(stage.cluster, target, server), False
        code = _TRY.replace("sys.argv[1]", repr(json.dumps([target])))
        yield f"Envoy to {what}", json.loads(stage.debug(router, code))[0], False


def tried(cluster: Cluster, target: Target, pod: str = "client") -> bool:
    """Whether a pod can connect."""
    return bool(json.loads(cluster.python(pod, _TRY, json.dumps([target])))[0])


def told(stage: Stage, found: list[Tried]) -> None:
    """A row of what must be reached, one of what must not, and one for each that is otherwise."""
    for wanted, word in ((True, "let through"), (False, "held off")):
        ends = [reached == wanted for _, reached, must in found if must == wanted]
        value = f"{sum(ends)} of {len(ends)}"
        which = [what for what, _, must in found if must == wanted]
        stage.fact(f"connections that must be {word} and are", value, all(ends), which=which)
    for what, reached, wanted in found:
        if reached != wanted:
            stage.fact(what, "reached" if reached else "not reached", False)
