"""The chart's values of these tests: what a small cluster needs, and all else as users get it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from overlay import HARDENED

from scenarios.release import Values

ADAPTERS = [f"a{i:02}" for i in range(12)]
SPARE = ["b00"]
"""Made in each pod too, and declared by scenarios."""
TOKENS, TLS, TEST_TOKEN, CODE = "tokens", "certificate", "test-token", "models"
"""Secrets of the tests, and the ConfigMap of models.py."""


@dataclass
class Images:
    server: str
    other: str
    """The same program under another tag."""
    envoy: str
    picker: str


def values(images: Images, memory: str, dns: str, front: str) -> Values:
    outside = {"networkPolicy": {"dns": [{"ipBlock": {"cidr": f"{dns}/32"}}]}} if dns else {}
    return outside | {
        "image": image(images.server),
        "replicas": 2,
        "model": {"existingClaim": "", "volume": {"emptyDir": {}}},
        "initContainers": [maker(images.server)],
        "extraVolumes": [{"name": "code", "configMap": {"name": CODE}}],
        "adapters": {"manifest": {"adapters": entries(ADAPTERS)}},
        "settings": {"threads": 1, "max_adapters": 16, "kv_cache_bytes": 128 << 20},
        "auth": {"existingSecret": TOKENS},
        "tls": {"existingSecret": TLS},
        "resources": {
            "requests": {"cpu": "100m", "memory": "512Mi"},
            "limits": {"memory": memory},
        },
        "router": {
            "enabled": front == "router",
            "image": image(images.envoy),
            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        },
        "picker": {"enabled": front == "picker", "image": image(images.picker)},
        "test": {"adapter": ADAPTERS[0], "tokenSecret": TEST_TOKEN},
    }


def image(name: str) -> dict[str, str]:
    repository, _, tag = name.rpartition(":")
    return {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"}


def entries(adapters: list[str], prefix: str = "") -> list[dict[str, str]]:
    """Declared adapters; with the prefix file:// they are fetched, as those of a store are."""
    return [{"name": one, "source": f"{prefix}/models/adapters/{one}"} for one in adapters]


def maker(server: str) -> dict[str, Any]:
    """The init container that makes a small random model and its adapters."""
    return {
        "name": "models",
        "image": server,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "/code/models.py", "/models", *ADAPTERS, *SPARE],
        "securityContext": HARDENED | {"readOnlyRootFilesystem": True},
        "volumeMounts": [
            {"name": "models", "mountPath": "/models"},
            {"name": "code", "mountPath": "/code"},
        ],
    }


EVERYTHING: list[Values] = [
    {
        "scaling": {"hpa": {"enabled": True}},
        "gateway": {
            "grpcRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}]},
            "httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}]},
        },
        "serviceAccount": {"create": True},
        "monitoring": {
            "podMonitor": {"enabled": True},
            "alerts": {"enabled": True},
            "dashboard": {"enabled": True},
        },
    },
    {"scaling": {"keda": {"enabled": True}}, "monitoring": {"podMonitor": {"enabled": True}}},
    {"router": {"enabled": False}, "picker": {"enabled": True}},
    {"router": {"enabled": False}, "picker": {"enabled": True, "envoy": {"enabled": False}}},
]
"""Values that between them render each optional kind."""
