"""Measures on a Kubernetes cluster what starts, stops and mistakes cost, with the project's own
manifest and ghz: failed calls of all calls.

    python deploy/test/run.py --image loramux:0.1.0 --label after --out cluster.json
    python deploy/test/run.py --image loramux:0.1.0 rollout kill     # some scenarios

Needs kubectl (and a KUBECONFIG that may create a namespace), openssl, and a ghz for the pods' kind
of processor. Scenarios make their own pods, and the namespace is deleted at the end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import traceback
from pathlib import Path
from typing import Any

import changes
import overlay
import stops
from bench import Bench
from cluster import Cluster
from load import Client

SCENARIOS = {
    "rollout": stops.rollout,
    "deletion": stops.deletion,
    "kill": stops.kill,
    "early": stops.early,
    "scale": changes.scale,
    "broken": changes.broken,
    "service": changes.service,
    "unreadable": changes.unreadable,
    "idle": stops.idle,
}


def main() -> None:
    args = arguments()
    cluster = Cluster(args.namespace)
    namespace: dict[str, Any] = {"apiVersion": "v1", "kind": "Namespace"}
    cluster.apply(namespace | {"metadata": {"name": args.namespace}})
    try:
        rows, errors = measure(cluster, args)
    finally:
        if not args.keep:
            cluster.run("delete", "namespace", args.namespace, check=False)
    if args.out:
        write(args.out, args.label, rows, versions(cluster, args.ghz))
    if errors:
        raise SystemExit(f"not measured: {', '.join(errors)}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("scenarios", nargs="*", help=f"of {', '.join(SCENARIOS)}; default: all")
    parser.add_argument(
        "--image", default="loramux:0.1.0", help="image on the nodes or in a registry"
    )
    parser.add_argument("--namespace", default="loramux-test", help="made, and deleted at the end")
    parser.add_argument(
        "--models",
        default="",
        help="claim:NAME or host:/PATH with base/ and adapters/support; default: a small "
        "random model that each pod makes itself",
    )
    parser.add_argument("--memory", default="2Gi", help="limit of each pod")
    parser.add_argument(
        "--ghz", default=shutil.which("ghz"), help="program that is copied into a pod"
    )
    parser.add_argument(
        "--out", type=Path, help="JSON file; other labels and scenarios in it are kept"
    )
    parser.add_argument("--label", default="after", help="under which the results are kept")
    parser.add_argument("--keep", action="store_true", help="leave the namespace")
    args = parser.parse_args()
    if unknown := set(args.scenarios) - set(SCENARIOS):
        parser.error(f"no such scenarios: {', '.join(unknown)}")
    if not args.ghz:
        parser.error("no ghz on the PATH: give --ghz")
    return args


def measure(cluster: Cluster, args: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str]]:
    target = overlay.Target(args.image, args.models, args.memory)
    bench = Bench(cluster, target, prepare(cluster, args))
    errors = []
    for scenario in args.scenarios or SCENARIOS:
        try:
            SCENARIOS[scenario](bench)
        except Exception:  # the others can still be measured
            traceback.print_exc()
            errors.append(scenario)
        finally:
            bench.remove()
    return bench.rows, errors


def prepare(cluster: Cluster, args: argparse.Namespace) -> Client:
    """The client's pod, a certificate and a token."""
    certificate, token = credentials(cluster, args.image)
    return Client(cluster, Path(args.ghz), certificate, token)


def credentials(cluster: Cluster, image: str) -> tuple[bytes, str]:
    """The client's pod and the Secrets of a certificate and a token, which it gives."""
    cluster.run("delete", "pod", "client", "--ignore-not-found")
    cluster.apply(overlay.client(image))
    cluster.run("wait", "--for=condition=Ready", "pod/client", "--timeout=180s")
    make = ["exec", "client", "--", "loramux", "token", "test", "--adapter", "*"]
    made = subprocess.run(cluster.command(*make), capture_output=True, check=True)
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = overlay.certificate(cluster.namespace, Path(folder))
    files = {"tls_crt": certificate, "tls_key": key, "ca_crt": certificate}
    cluster.apply(
        overlay.secret("loramux-tokens", tokens_yaml=made.stdout),
        overlay.secret("loramux-tls", "kubernetes.io/tls", **files),
    )
    return certificate, made.stderr.decode().split()[-1]


def versions(cluster: Cluster, ghz: str) -> dict[str, str]:
    told = subprocess.run([ghz, "--version"], capture_output=True, text=True)
    return {
        "kubernetes": server_version(cluster),
        "ghz": (told.stdout + told.stderr).strip().lstrip("v"),
    }


def server_version(cluster: Cluster) -> str:
    version = json.loads(cluster.run("version", "-o", "json"))["serverVersion"]["gitVersion"]
    return str(version).lstrip("v")


def write(path: Path, label: str, rows: list[dict[str, Any]], programs: dict[str, str]) -> None:
    kept = json.loads(path.read_text()) if path.exists() else {}
    before = kept.get(label, {"rows": []})["rows"]
    measured = {row["measure"] for row in rows}
    rows = [row for row in before if row["measure"] not in measured] + rows
    path.write_text(
        json.dumps(kept | {label: programs | {"rows": rows}}, indent=1, ensure_ascii=False) + "\n"
    )


if __name__ == "__main__":
    main()
