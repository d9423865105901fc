"""Tests the chart on a Kubernetes cluster: what is done to a release while calls come in over its Service
and through its Envoy, and which calls fail.

    python deploy/test/release.py --image loramux:0.1.0 --out release.json       # all, about 35 minutes
    python deploy/test/release.py --image loramux:0.1.0 kill drain               # some scenarios

Needs kubectl (and a KUBECONFIG that may make namespaces), helm, openssl, and a ghz for the pods' kind of processor.
Ends with status 1 if something does not hold.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import overlay
from cluster import Cluster
from run import versions
from scenarios import SCENARIOS, values
from scenarios.loads import Caller
from scenarios.pki import Authority
from scenarios.release import Release
from scenarios.stage import Stage
from scenarios.verdict import failures

HERE = Path(__file__).parent


def main() -> None:
    args = arguments()
    cluster = Cluster(args.namespace)
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": args.namespace}})
    with tempfile.TemporaryDirectory() as folder:
        try:
            stage = staged(cluster, args, Authority(Path(folder)))
            wrong = play(stage, args.scenarios or list(SCENARIOS))
        finally:
            if not args.keep:
                Release(args.release, args.namespace).uninstall()
                cluster.run("delete", "namespace", args.namespace, check=False)
    if args.out:
        about = versions(cluster, args.ghz) | {"helm": helm_version(), "rows": stage.rows}
        args.out.write_text(json.dumps({"scenarios": about}, indent=1, ensure_ascii=False) + "\n")
    print("\n".join([f"{len(wrong)} things do not hold", *wrong]))
    raise SystemExit(bool(wrong))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("scenarios", nargs="*", help=f"of {', '.join(SCENARIOS)}; default: all")
    add = parser.add_argument
    add("--image", default="loramux:0.1.0", help="on the nodes or in a registry")
    add("--other-image", default="", help="another tag of it, for an update; none: not tested")
    add("--envoy-image", default="docker.io/envoyproxy/envoy:distroless-v1.40.0")
    add("--picker-image", default="registry.k8s.io/gateway-api-inference-extension/epp:v1.5.0")
    add("--namespace", default="loramux-cluster-test", help="made, and deleted at the end")
    add("--release", default="tenants", help="its name")
    add("--front", default="router", choices=("router", "picker"), help="before the servers")
    add("--memory", default="2Gi", help="limit of each server")
    add("--rate", type=float, default=1, help="factor of the calls a second")
    add("--crds", type=Path, help="folder of CRDs that are applied (and stay), for optional kinds")
    add("--ghz", default=shutil.which("ghz"), help="program that is copied into a pod")
    add("--out", type=Path, help="JSON file")
    add("--keep", action="store_true", help="leave release and namespace")
    args = parser.parse_args()
    if unknown := set(args.scenarios) - set(SCENARIOS):
        parser.error(f"no such scenarios: {', '.join(unknown)}")
    for program in ("helm", "kubectl", "openssl"):
        if not shutil.which(program):
            parser.error(f"no {program} on the PATH")
    if not args.ghz:
        parser.error("no ghz on the PATH: give --ghz")
    return args


def staged(cluster: Cluster, args: argparse.Namespace, authority: Authority) -> Stage:
    """The client's pod, Secrets, and the ConfigMap of the program that makes models."""
    release = Release(args.release, args.namespace, args.front)
    if args.crds:  # a picker has an InferencePool
        cluster.run("apply", "--server-side", "-f", str(args.crds))
    release.uninstall()  # of a run before, with another authority
    cluster.run("delete", "pod", "client", "--ignore-not-found")
    code = {"models.py": (HERE / "models.py").read_text()}
    cluster.apply(
        overlay.client(args.image),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": values.CODE}, "data": code},
    )
    cluster.run("wait", "--for=condition=Ready", "pod/client", "--timeout=180s")
    tokens = dict(made_token(cluster, name) for name in ("always", "first", "second"))
    token = next(iter(tokens))
    cluster.apply(
        overlay.secret(values.TOKENS, tokens_yaml=tokens[token].encode()),
        overlay.secret(values.TEST_TOKEN, token=token.encode()),
        overlay.secret(values.TLS, "kubernetes.io/tls", **authority.issue(release)),
    )
    images = values.Images(args.image, args.other_image, args.envoy_image, args.picker_image)
    caller = Caller(cluster, release, Path(args.ghz), authority.certificate, token)
    made = values.values(images, args.memory, dns_outside(cluster), args.front)
    return Stage(cluster, release, images, made, authority, caller, tokens, args.crds, args.rate)


def dns_outside(cluster: Cluster) -> str:
    """The address of a DNS that is outside of pods, which the chart's policies do not know; else nothing."""
    read = "print(*(line.split()[1] for line in open('/etc/resolv.conf') if line.startswith('nameserver')))"
    address = cluster.python("client", read).split()[0]
    services = cluster.run("get", "services", "-A", "-o", "jsonpath={.items[*].spec.clusterIPs[*]}")
    return "" if address in services.split() else address


def made_token(cluster: Cluster, name: str) -> tuple[str, str]:
    """A token, and its entry of tokens.yaml."""
    make = ["exec", "client", "--", "loramux", "token", name, "--adapter", "*"]
    done = subprocess.run(cluster.command(*make), capture_output=True, check=True, text=True)
    return done.stderr.split()[-1], done.stdout


def play(stage: Stage, names: list[str]) -> list[str]:
    """Runs scenarios one after the other; gives what did not hold."""
    for name in names:
        stage.scenario, began = name, time.monotonic()
        try:
            SCENARIOS[name](stage)
        except Exception as error:  # the others can still be tested
            traceback.print_exc()
            stage.fact("does not come to its end", f"{type(error).__name__}: {error}"[:500], False)
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    return failures(stage.rows)


def helm_version() -> str:
    told: dict[str, Any] = {"args": ["helm", "version", "--short"], "capture_output": True}
    return str(subprocess.run(**told, text=True).stdout.strip().lstrip("v").partition("+")[0])


if __name__ == "__main__":
    main()
