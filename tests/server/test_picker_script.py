"""deploy/test/picker.py without a cluster: its files fit the manifest, the messages and the server."""

from __future__ import annotations

import asyncio
import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from loramux.v1 import inference_pb2

from tests.support.http_front import http_running
from tests.support.servers import make_settings

DEPLOY = Path(__file__).parents[2] / "deploy"
FOLDER = DEPLOY / "test"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Gives a module of deploy/test by its name."""
    monkeypatch.syspath_prepend(FOLDER)
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
            del sys.modules[name]


def objects(file: Path) -> dict[str, Any]:
    return {one["kind"]: one for one in yaml.safe_load_all(file.read_text())}


def envoy() -> Any:
    return yaml.safe_load((FOLDER / "picker/envoy.yaml").read_text())["static_resources"]


def test_the_picker_finds_what_the_manifest_opens() -> None:
    server, picker = objects(DEPLOY / "kubernetes.yaml"), objects(FOLDER / "picker/picker.yaml")
    template = server["Deployment"]["spec"]["template"]
    ports = {p["name"]: p["containerPort"] for p in template["spec"]["containers"][0]["ports"]}
    pool = picker["InferencePool"]["spec"]
    assert pool["selector"]["matchLabels"] == template["metadata"]["labels"]
    assert pool["targetPorts"] == [{"number": ports["metrics"]}]
    opened = picker["NetworkPolicy"]["spec"]
    assert opened["podSelector"] == server["NetworkPolicy"]["spec"]["podSelector"]
    assert [p["port"] for p in opened["ingress"][0]["ports"]] == ["metrics"]
    clusters = {c["name"]: c for c in envoy()["clusters"]}
    for kind in ("grpc", "http"):
        override = clusters[f"picked_{kind}"]["original_dst_lb_config"]["upstream_port_override"]
        assert override == ports[kind]
        (endpoint,) = clusters[f"any_{kind}"]["load_assignment"]["endpoints"][0]["lb_endpoints"]
        address = endpoint["endpoint"]["address"]["socket_address"]
        assert address["address"] == server["Service"]["metadata"]["name"]
        assert address["port_value"] == ports[kind]


def test_the_base_has_the_name_that_envoy_knows() -> None:
    first = next(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    base = Path(yaml.safe_load(first["data"]["loramux.yaml"])["base"]).name
    route = manager("http")["route_config"]["virtual_hosts"][0]["routes"][0]
    (name,) = [h for h in route["match"]["headers"] if h["name"].endswith("rewrite")]
    assert name["string_match"]["exact"] == base
    assert route["route"]["cluster"] == "any_http"


def manager(listener: str) -> Any:
    (found,) = [one for one in envoy()["listeners"] if one["name"] == listener]
    return found["filter_chains"][0]["filters"][0]["typed_config"]


def test_envoy_reads_fields_that_requests_have() -> None:
    extraction = manager("grpc")["http_filters"][0]["typed_config"]["extractions_by_method"]
    service = inference_pb2.DESCRIPTOR.services_by_name["Inference"]
    assert set(extraction) == {method.full_name for method in service.methods}
    for method in service.methods:
        for path in extraction[method.full_name]["request_field_extractions"]:
            message: Descriptor | None = method.input_type
            for part in path.split("."):
                assert message is not None
                message = message.fields_by_name[part].message_type


def test_round_robin_is_the_same_without_the_picker(scripts: Any) -> None:
    routed = scripts("routed")
    turned = routed.in_turn({"static_resources": envoy()})["static_resources"]
    used = [
        route["route"]["cluster"]
        for one in turned["listeners"]
        for route in one["filter_chains"][0]["filters"][0]["typed_config"]["route_config"][
            "virtual_hosts"
        ][0]["routes"]
    ]
    assert set(used) == {"any_grpc", "any_http"}
    policies = {one["name"]: one.get("lb_policy") for one in turned["clusters"]}
    assert {policies[name] for name in used} == {"ROUND_ROBIN"}
    assert "ext_proc" not in yaml.safe_dump(turned["listeners"])


def test_pods_make_the_adapters_that_they_declare(tmp_path: Path, scripts: Any) -> None:
    overlay = scripts("overlay")
    names = ("a00", "a01")
    variant = overlay.Variant(adapters=names)
    (maker,) = overlay.models(overlay.Target("an-image"), variant)["initContainers"]
    script = [str(FOLDER / "models.py"), str(tmp_path), *maker["command"][3:]]
    subprocess.run([sys.executable, *script], check=True)
    declared = yaml.safe_load(overlay.declared(names)["data"]["adapters.yaml"])["adapters"]
    assert [Path(entry["source"]).name for entry in declared] == list(names)
    files = [tmp_path / "adapters" / name / "adapter_model.safetensors" for name in names]
    assert files[0].read_bytes() != files[1].read_bytes()


def test_descriptors_hold_the_requests(scripts: Any) -> None:
    files = FileDescriptorSet.FromString(scripts("descriptors").descriptors())
    assert files.file[-1].name == "loramux/v1/inference.proto"
    assert all(set(one.dependency) <= {file.name for file in files.file} for one in files.file)


async def test_the_load_calls_over_both_protocols(
    tiny_base: Path, tiny_adapters: dict[str, Path], scripts: Any
) -> None:
    script = scripts("picker_load")
    one, other = list(tiny_adapters)[:2]
    settings = make_settings(tiny_base, tiny_adapters)
    async with http_running(settings, port=True) as front:
        calls = [(name, kind) for name in (one, other) for kind in scripts("picker").ROUTERS["mix"]]
        asked = {
            "calls": [*calls, ("nobody", "unary"), ("nobody", "http")],
            "at_once": 3,
            "tokens": 4,
            "grpc": front.server.target,
            "http": front.url.removeprefix("http://"),
            "token": "",
            "authority": "",
        }
        done = await asyncio.to_thread(script.Load(asked).run)
        pages = {path: (await front.get(path)).text for path in ("/metrics", "/metrics/router")}
    assert done["ends"].pop("OK") == len(done["latencies"]) == 8
    assert sorted(end.split()[0] for end in done["ends"]) == ["NOT_FOUND:", "RuntimeError:"]
    assert {name: len(texts) for name, texts in done["texts"].items()} == {one: 1, other: 1}
    routed = scripts("routed")
    assert {one, other} <= set(routed.listed(pages["/metrics/router"]))
    count = routed.Count({}, {})
    count.add("pod", pages["/metrics"])
    assert count.by_pod() == {"pod": 8}
    assert count.loads["pod"] >= 2
    assert count.calls == {("pod", one): 4, ("pod", other): 4}
    assert count.since(count).calls == {}


@pytest.mark.skipif(not shutil.which("envoy"), reason="no envoy")
def test_envoy_takes_its_configuration(tmp_path: Path, scripts: Any) -> None:
    (tmp_path / "loramux.binpb").write_bytes(scripts("descriptors").descriptors())
    (tmp_path / "ca.crt").write_bytes(scripts("overlay").certificate("test", tmp_path)[0])
    text = (FOLDER / "picker/envoy.yaml").read_text()
    text = text.replace("/etc/picker", str(tmp_path)).replace("/etc/loramux-tls", str(tmp_path))
    (tmp_path / "envoy.yaml").write_text(text)
    command = ["envoy", "--mode", "validate", "-c", str(tmp_path / "envoy.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tables_are_written_into_their_places(tmp_path: Path) -> None:
    found = {"router": "mix", "kind": "http", "calls": 180, "failed": 0, "reached": 179, "loads": 1}
    run = {"router": "mix", "adapters": 12, "calls": 100, "failed": {}, "loads": 4}
    runs = [run | {"most_of_one_server": 1.1}, run | {"most_of_one_server": 1.2, "loads": 5}]
    (tmp_path / "picker.json").write_text(json.dumps({"holder": [found], "loads": runs}))
    page = tmp_path / "page.md"
    page.write_text(
        "x\n<!-- table holder -->\n<!-- end -->\ny\n<!-- table loads -->\n<!-- end -->\n"
    )
    script = [str(FOLDER / "picker_table.py"), str(tmp_path / "picker.json"), str(page)]
    subprocess.run([sys.executable, *script], check=True)
    rows = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    assert "| mix | – | – | 179 of 180 | – |" in rows
    assert "| 12 | mix | 45 | 1.15 | 0 of 200 |" in rows


def test_the_guide_has_the_figures_that_were_measured(tmp_path: Path) -> None:
    guide = FOLDER.parents[1] / "docs/guide/routing.md"
    results = FOLDER.parents[1] / "benchmarks/results/picker.json"
    page = tmp_path / "page.md"
    page.write_text(guide.read_text())
    script = [str(FOLDER / "picker_table.py"), str(results), str(page)]
    subprocess.run([sys.executable, *script], check=True)
    assert page.read_text() == guide.read_text()
    runs = json.loads(results.read_text())["loads"]
    assert {run["texts_of_one_adapter"] for run in runs} == {1}


def test_the_kustomization_has_what_the_pod_reads() -> None:
    kustomization = yaml.safe_load((FOLDER / "picker/kustomization.yaml").read_text())
    (config,) = kustomization["configMapGenerator"]
    pod = pod_of_the_picker()
    (volume,) = [one["configMap"] for one in pod["volumes"] if "configMap" in one]
    assert volume["name"] == config["name"]
    keys = {name.partition("=")[0] for name in config["files"]}
    picker, proxy = pod["containers"]
    (flag,) = [arg for arg in picker["args"] if arg.startswith("--config-file=")]
    descriptors = manager("grpc")["http_filters"][0]["typed_config"]["descriptor_set"]["filename"]
    read = {flag.partition("=")[2], proxy["args"][1], descriptors}
    assert {Path(path).name for path in read} == keys
    assert {str(Path(path).parent) for path in read} == {
        mount["mountPath"] for mount in picker["volumeMounts"]
    }


def test_a_router_is_a_file_of_the_kustomization(scripts: Any) -> None:
    routed = scripts("routed")
    text = (FOLDER / "picker/kustomization.yaml").read_text()
    images = {routed.PICKER: "localhost:5000/epp:1", routed.ENVOY: "envoy:2"}
    for router in scripts("picker").ROUTERS:
        made = yaml.safe_load(routed.kustomization(text, "tried", images, router))
        (config,) = made["configMapGenerator"]
        assert f"picker.yaml={router}.yaml" in config["files"]
        assert (FOLDER / f"picker/{router}.yaml").is_file()
        assert made["namespace"] == "tried"
        assert made["images"][0]["newName"] == "localhost:5000/epp"
        assert made["images"][0]["newTag"] == "1"
    named = [c["image"] for c in pod_of_the_picker()["containers"]]
    assert [name.rpartition(":")[0] for name in named] == [routed.PICKER, routed.ENVOY]


def pod_of_the_picker() -> Any:
    return objects(FOLDER / "picker/picker.yaml")["Deployment"]["spec"]["template"]["spec"]
