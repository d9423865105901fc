"""The board and the alerts ask for what a real server shows, and are what Grafana and Prometheus take."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from lora_runtime import errors

from ..support.promql import Series, asked
from .helm import render
from .live_page import scraped

ROOT = Path(__file__).parents[2]
ALL_ON = {
    "monitoring": {
        "podMonitor": {"enabled": True},
        "alerts": {"enabled": True},
        "dashboard": {"enabled": True},
    }
}
KNOWN = {
    "code": {code.name for code in grpc.StatusCode},
    "status": {"500"},
    "reason": {
        kind.__name__.removesuffix("Error") for kind in errors.LoramuxError.__subclasses__()
    },
}
"""Values of labels of which no test brings about all."""
UNITS = {"short", "s", "bytes", "percentunit", "reqps", "ops"}


@pytest.fixture(scope="module")
def there(
    tiny_base: Path, tiny_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Series:
    return asyncio.run(scraped(tiny_base, tiny_adapters, tmp_path_factory.mktemp("scraped")))


@pytest.fixture(scope="module")
def objects() -> dict[str, dict[str, Any]]:
    found = render(ALL_ON, release="some", namespace="models")
    names = {"PodMonitor", "PrometheusRule"}
    by_kind = {one["kind"]: one for one in found if one["kind"] in names}
    boards = [one for one in found if "loramux.json" in one.get("data", {})]
    return by_kind | {"board": json.loads(boards[0]["data"]["loramux.json"])}


def rules(objects: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    groups = objects["PrometheusRule"]["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels(objects: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [panel for panel in objects["board"]["panels"] if panel["type"] != "row"]


def filled(expression: str) -> str:
    """As Grafana sends it."""
    assert not re.search(r"\$(?!namespace|job|pod|adapter|__rate_interval|__range)", expression)
    expression = expression.replace("$__range", "1h")
    return expression.replace("$__rate_interval", "1m").replace('"$adapter"', '".*"')


def test_each_query_of_the_board_names_what_is_there(
    objects: dict[str, dict[str, Any]], there: Series
) -> None:
    queries = [target["expr"] for panel in panels(objects) for target in panel["targets"]]
    assert len(queries) > 50
    missing = {
        wrong
        for query in queries
        for one in asked(filled(query))
        if (wrong := one.missing(there, KNOWN)) is not None
    }
    assert not missing


def test_each_variable_of_the_board_names_what_is_there(
    objects: dict[str, dict[str, Any]], there: Series
) -> None:
    variables = [v for v in objects["board"]["templating"]["list"] if v["type"] == "query"]
    assert [v["name"] for v in variables] == ["namespace", "job", "pod", "adapter"]
    for variable in variables:
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert found
        for one in asked(f"count by ({found[2]}) ({filled(found[1])})"):
            assert one.missing(there, KNOWN) is None


def test_each_alert_names_what_is_there(objects: dict[str, dict[str, Any]], there: Series) -> None:
    alerts = rules(objects)
    assert len(alerts) > 15
    for alert in alerts:
        for one in asked(alert["expr"]):
            assert one.missing(there, KNOWN) is None, alert["alert"]
            assert {"namespace", "job"} <= {m.name for m in one.matchers}, alert["alert"]
            told = set(re.findall(r"\$labels\.(\w+)", json.dumps(alert["annotations"])))
            assert told <= (one.grouped_by or {"namespace", "job", "pod"}) or (
                alert["alert"] == "LoramuxRequestsRejected"
            )


def test_what_scales_names_what_is_there(there: Series) -> None:
    found = {
        one["kind"]: one.get("spec", {})
        for how in ("hpa", "keda")
        for one in render({"scaling": {how: {"enabled": True}}} | ALL_ON, release="some")
    }
    (metric,) = found["HorizontalPodAutoscaler"]["metrics"]
    assert there[metric["pods"]["metric"]["name"]] == [{}], "one series of each pod"
    (trigger,) = found["ScaledObject"]["triggers"]
    (one,) = asked(trigger["metadata"]["query"])
    assert one.missing(there, KNOWN) is None
    assert {"namespace", "job"} == {matcher.name for matcher in one.matchers}


def test_each_alert_has_its_place_in_the_guide(objects: dict[str, dict[str, Any]]) -> None:
    guide = (ROOT / "docs/guide/monitoring.md").read_text()
    titles = {title.lower() for title in re.findall(r"^### (\w+)$", guide, re.MULTILINE)}
    linked = {
        alert["annotations"]["runbook"].removeprefix("docs/guide/monitoring.md#")
        for alert in rules(objects)
    }
    assert linked == titles
    for alert in rules(objects):
        assert alert["labels"]["severity"] in {"info", "warning", "critical"}
        assert alert["annotations"].keys() == {"summary", "description", "runbook"}


def test_the_board_is_what_grafana_takes(objects: dict[str, dict[str, Any]]) -> None:
    board = objects["board"]
    assert board["schemaVersion"] >= 36
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    assert len(list(cells(board["panels"]))) == len(set(cells(board["panels"]))), "panels overlap"
    for panel in panels(objects):
        assert panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        letters = [target["refId"] for target in panel["targets"]]
        assert letters == sorted(set(letters))
        for target in panel["targets"]:
            kept = frozenset[str]().union(
                *(one.grouped_by for one in asked(filled(target["expr"])))
            )
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept


def cells(placed: list[dict[str, Any]]) -> Iterator[tuple[int, int]]:
    """Places of the grid that panels take; none is beside it."""
    for panel in placed:
        at = panel["gridPos"]
        assert 0 <= at["x"] < at["x"] + at["w"] <= 24
        yield from ((at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"]))


def test_the_board_in_the_chart_is_that_of_its_source() -> None:
    subprocess.run([sys.executable, "deploy/dashboard/build.py", "--check"], cwd=ROOT, check=True)


def test_pods_are_scraped_without_what_is_for_routers(
    objects: dict[str, dict[str, Any]], there: Series
) -> None:
    (endpoint,) = objects["PodMonitor"]["spec"]["podMetricsEndpoints"]
    dropped = [
        re.compile(rule["regex"])
        for rule in endpoint["metricRelabelings"]
        if rule["action"] == "drop" and rule["sourceLabels"] == ["__name__"]
    ]
    gone = {name for name in there if any(regex.fullmatch(name) for regex in dropped)}
    assert {"vllm:lora_requests_info", "vllm:lora_adapter_loaded"} <= gone
    used = {
        one.metric
        for query in [
            *(t["expr"] for panel in panels(objects) for t in panel["targets"]),
            *(rule["expr"] for rule in rules(objects)),
        ]
        for one in asked(filled(query))
    }
    assert not used & gone
    assert {"targetLabel": "job", "replacement": "some-loramux"}.items() <= endpoint["relabelings"][
        0
    ].items()


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"metrics_port": 0}, "metrics_port"), ({"metrics_names": ["vllm"]}, "metrics_names")],
)
def test_what_would_leave_the_board_empty_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(Exception, match=told):
        render(ALL_ON | {"settings": settings})


def test_alerts_can_be_left_out_and_changed() -> None:
    changed = {
        "enabled": True,
        "disabled": ["LoramuxAdaptersDiffer"],
        "thresholds": {"ttftP99Seconds": 2.5},
        "runbookUrl": "https://runbooks.example/monitoring",
        "ruleLabels": {"team": "models"},
    }
    found = render({"monitoring": {"alerts": changed}})
    (rule,) = [one for one in found if one["kind"] == "PrometheusRule"]
    alerts = {one["alert"]: one for group in rule["spec"]["groups"] for one in group["rules"]}
    assert "LoramuxAdaptersDiffer" not in alerts
    late = alerts["LoramuxFirstTokenLate"]
    assert late["expr"].endswith("> 2.5")
    assert late["labels"] == {"severity": "warning", "team": "models"}
    assert late["annotations"]["runbook_url"].endswith("/monitoring#loramuxfirsttokenlate")
    with pytest.raises(Exception, match="there is no alert LoramuxNothing"):
        render({"monitoring": {"alerts": {"enabled": True, "disabled": ["LoramuxNothing"]}}})
