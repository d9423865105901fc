"""deploy/test/picker.py without a cluster: its values fit the chart, its calls the server."""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.http_front import http_running
from tests.support.servers import make_settings

from .helm import only, render

FOLDER = Path(__file__).parents[2] / "deploy/test"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Gives a module of deploy/test by its name."""
    monkeypatch.syspath_prepend(FOLDER)
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
            del sys.modules[name]


def test_each_router_is_one_of_the_chart(scripts: Any) -> None:
    routed = scripts("routed")
    servers = routed.servers("registry.example/loramux:1", ["a00", "a01"], 4)
    images = {"server": "loramux:1", "envoy": "registry.example:5000/envoy:2", "picker": None}
    policies = {}
    for router, values in routed.ROUTERS.items():
        found = render(routed.merged(servers, routed.merged(routed.front(images), values)))
        component = "picker" if "picker" in values else "router"
        pod = only(found, "Deployment", f"-{component}")["spec"]["template"]["spec"]
        assert pod["containers"][0]["image"] == "registry.example:5000/envoy:2"
        policies[router] = only(found, "ConfigMap", f"-{component}")["data"]["envoy.yaml"]
    assert len(set(policies.values())) >= len(policies) - 1, (
        "only the picker's weights are elsewhere"
    )


def test_pods_make_the_adapters_that_they_declare(tmp_path: Path, scripts: Any) -> None:
    values = scripts("routed").servers("an-image", ["a00", "a01"], 4)
    (maker,) = values["initContainers"]
    script = [str(FOLDER / "models.py"), str(tmp_path), *maker["command"][3:]]
    subprocess.run([sys.executable, *script], check=True)
    declared = values["adapters"]["manifest"]["adapters"]
    files = [
        tmp_path / "adapters" / Path(entry["source"]).name / "adapter_model.safetensors"
        for entry in declared
    ]
    assert files[0].read_bytes() != files[1].read_bytes()


def test_workloads_draw_what_their_weights_say(scripts: Any) -> None:
    for workload in scripts("picker").WORKLOADS.values():
        calls = workload.draw(4000, 1)
        assert calls == workload.draw(4000, 1)
        counts = Counter(name for name, _ in calls)
        assert counts.keys() <= set(workload.names())
        often, seldom = counts[workload.names()[0]], counts[workload.names()[-1]]
        expected = workload.weights[0] / workload.weights[-1]
        assert expected / 2 < often / max(1, seldom) < expected * 2


async def test_the_load_calls_over_both_protocols(
    tiny_base: Path, tiny_adapters: dict[str, Path], scripts: Any
) -> None:
    script = scripts("picker_load")
    one, other = list(tiny_adapters)[:2]
    settings = make_settings(tiny_base, tiny_adapters)
    async with http_running(settings, port=True) as front:
        calls = [(name, kind) for name in (one, other) for kind in scripts("picker").KINDS]
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
    count = routed.Count()
    count.add("pod", pages["/metrics"])
    assert count.by_pod() == {"pod": 8}
    assert count.loads["pod"] >= 2
    assert count.calls == {("pod", one): 4, ("pod", other): 4}
    assert count.since(count).calls == {}


def test_tables_are_written_into_their_places(tmp_path: Path) -> None:
    found = {"router": "mix", "kind": "http", "calls": 180, "failed": 0, "reached": 179, "loads": 1}
    run = {"router": "mix", "adapters": 12, "slots": 4, "calls": 100, "failed": {}, "loads": 4}
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
    assert "| 12 | 4 | mix | 45 | 1.15 | 0 of 200 |" in rows


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
