"""The project's manifest as a test deploys it: another image, small resources, its own models,
certificate and token. All else stays as it is, for that is what is tested."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster import Cluster

MANIFEST = Path(__file__).parents[1] / "kubernetes.yaml"
PROTOS = Path(__file__).parents[2] / "protos" / "loramux" / "v1"
HARDENED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@dataclass
class Target:
    """What is deployed, and how."""

    image: str
    models: str = ""
    """Where base/ and adapters/support are: "claim:NAME", "host:/PATH", or nothing: the pods make them."""
    memory: str = "2Gi"
    cpu: str = "100m"
    env: dict[str, str] = field(default_factory=dict)


@dataclass
class Variant:
    """What a scenario changes."""

    replicas: int = 2
    env: dict[str, str] = field(default_factory=dict)
    cluster_ip: bool = False
    unreadable: bool = False
    adapters: tuple[str, ...] = ()
    """Declared instead of the manifest's own, and made by the pods."""


def setting(text: str, fallback: float = 0) -> float:
    """A number among the manifest's settings; one that is not there is the server's own."""
    found = re.search(rf"^\s*{text}: ([\d.]+)", MANIFEST.read_text(), re.MULTILINE)
    return float(found[1]) if found else fallback


def apply(cluster: Cluster, target: Target, variant: Variant) -> None:
    """Deploys what kustomize makes of the manifest."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(MANIFEST, folder)
        file = Path(folder) / "kustomization.yaml"
        file.write_text(json.dumps(kustomization(cluster.namespace, target, variant)))
        cluster.run("apply", "-f", "-", stdin=cluster.run("kustomize", folder))


def kustomization(namespace: str, target: Target, variant: Variant) -> dict[str, Any]:
    patches: list[dict[str, Any]] = [{"patch": json.dumps(deployment(target, variant))}]
    if variant.cluster_ip:
        change = [{"op": "remove", "path": "/spec/clusterIP"}]
        patches.append({"target": {"kind": "Service"}, "patch": json.dumps(change)})
    if variant.adapters:
        patches.append({"patch": json.dumps(declared(variant.adapters))})
    return {
        "resources": [MANIFEST.name],
        "namespace": namespace,
        "patches": patches,
        "configMapGenerator": [
            {
                "name": "models",
                "literals": ["models.py=" + Path(__file__).with_name("models.py").read_text()],
            }
        ],
    }


def deployment(target: Target, variant: Variant) -> dict[str, Any]:
    env = {"LORAMUX_THREADS": "1"} | target.env | variant.env
    server = {
        "name": "loramux",
        "image": target.image,
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "resources": {
            "requests": {"cpu": target.cpu, "memory": "512Mi"},
            "limits": {"memory": target.memory},
        },
    }
    pod = {"containers": [server], **models(target, variant)}
    if variant.cluster_ip:
        pod["enableServiceLinks"] = True  # the manifest leaves the variables out
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "loramux"},
        "spec": {"replicas": variant.replicas, "template": {"spec": pod}},
    }


def declared(adapters: tuple[str, ...]) -> dict[str, Any]:
    """The ConfigMap of adapters."""
    entries = [{"name": name, "source": f"/models/adapters/{name}"} for name in adapters]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "loramux-adapters"},
        "data": {"adapters.yaml": json.dumps({"adapters": entries})},
    }


def models(target: Target, variant: Variant) -> dict[str, Any]:
    kind, _, where = target.models.partition(":")
    volume: dict[str, Any] = {"name": "models", "persistentVolumeClaim": None}
    if kind == "claim":
        return {"volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": where}}]}
    if kind == "host":
        return {"volumes": [volume | {"hostPath": {"path": where}}]}
    # A user of its own and a mode without the group: what the server's user cannot read.
    user = {"runAsUser": 10002} if variant.unreadable else {}
    maker = {
        "name": "models",
        "image": target.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "/code/models.py", "/models", *variant.adapters],
        "env": [{"name": "WEIGHTS_MODE", "value": "0600" if variant.unreadable else "0644"}],
        "securityContext": HARDENED | user,
        "volumeMounts": [
            {"name": "models", "mountPath": "/models"},
            {"name": "code", "mountPath": "/code"},
        ],
    }
    code = {"name": "code", "configMap": {"name": "models"}}
    return {"initContainers": [maker], "volumes": [volume | {"emptyDir": {}}, code]}


def client(image: str) -> dict[str, Any]:
    """The pod that ghz runs in: beside the servers, as a client in the cluster would."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "client"},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "client",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python", "-c", "import time; time.sleep(1e6)"],
                    "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}},
                    "securityContext": HARDENED,
                }
            ],
        },
    }


def certificate(namespace: str, folder: Path) -> tuple[bytes, bytes]:
    """A self-signed certificate for the Service's names, and its key."""
    names = ["loramux", f"loramux.{namespace}.svc", f"loramux.{namespace}.svc.cluster.local"]
    key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-keyout",
        "tls.key",
    ]
    subject = [
        "-subj",
        "/CN=loramux",
        "-addext",
        f"subjectAltName={','.join(f'DNS:{n}' for n in names)}",
    ]
    subprocess.run(
        ["openssl", "req", "-x509", "-days", "2", "-out", "tls.crt", *key, *subject],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return (folder / "tls.crt").read_bytes(), (folder / "tls.key").read_bytes()


def secret(name: str, kind: str = "Opaque", **files: bytes) -> dict[str, Any]:
    data = {key.replace("_", "."): base64.b64encode(value).decode() for key, value in files.items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": kind,
        "data": data,
    }
