"""The Kubernetes manifest against the server's settings and version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lora_runtime import __version__
from server.config import Settings
from server.load_settings import load

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture
def objects() -> dict[tuple[str, str], Any]:
    found = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


@pytest.fixture
def settings(objects: dict[tuple[str, str], Any], tmp_path: Path) -> Settings:
    file = tmp_path / "loramux.yaml"
    file.write_text(objects["ConfigMap", "loramux"]["data"]["loramux.yaml"])
    return load({}, file)


def test_what_is_written_has_a_volume(objects: dict[tuple[str, str], Any], settings: Any) -> None:
    pod = objects["Deployment", "loramux"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert settings.state_file is not None
    for path in (settings.adapter_cache_dir, str(settings.state_file.parent)):
        assert not mounts[path].get("readOnly")
    sizes = {
        volume["name"]: volume["emptyDir"].get("sizeLimit")
        for volume in pod["volumes"]
        if "emptyDir" in volume
    }
    assert (
        0
        < settings.adapter_cache_bytes
        < int(sizes[mounts["/cache"]["name"]].removesuffix("Gi")) << 30
    )
    assert settings.drain_s < pod["terminationGracePeriodSeconds"]


def test_the_service_has_the_ports_of_calls_alone(
    objects: dict[tuple[str, str], Any], settings: Settings
) -> None:
    ports = {port["name"]: port["port"] for port in objects["Service", "loramux"]["spec"]["ports"]}
    assert ports == {"grpc": settings.port, "http": settings.http_port}
    (container,) = objects["Deployment", "loramux"]["spec"]["template"]["spec"]["containers"]
    opened = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports.items() <= opened.items()
    anyone, _ = objects["NetworkPolicy", "loramux"]["spec"]["ingress"]
    assert {port["port"] for port in anyone["ports"]} == ports.keys()


def test_the_image_says_its_ports(settings: Settings) -> None:
    exposed = (DEPLOY / "Dockerfile").read_text().partition("EXPOSE ")[2].split("\n")[0]
    assert exposed.split() == [
        str(p) for p in (settings.port, settings.http_port, settings.metrics_port)
    ]


def test_one_image_tag(objects: dict[tuple[str, str], Any]) -> None:
    (container,) = objects["Deployment", "loramux"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"loramux:{__version__}"
    assert f"-t {container['image']} ." in (DEPLOY / "Dockerfile").read_text()
