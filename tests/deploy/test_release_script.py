"""deploy/test/release.py without a cluster: its values fit the chart, its verdicts and tables are right."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .helm import only, render

FOLDER = Path(__file__).parents[2] / "deploy" / "test"
DIALING = 'desc = "transport: Error while dialing: dial tcp: connect: connection refused"'


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(FOLDER)
    yield
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def values(front: str = "router") -> dict[str, Any]:
    from scenarios.values import Images
    from scenarios.values import values as made

    images = Images("a/server:1", "a/server:2", "envoy:3", "picker:4")
    return made(images, "1Gi", "10.0.0.10", front)


@pytest.mark.parametrize("front", ["router", "picker"])
def test_the_values_are_those_of_the_chart(front: str) -> None:
    from scenarios.release import Release

    release = Release("tenants", "default", front)
    objects = render(values(front), release.name)
    servers = only(objects, "Deployment", "loramux")
    assert servers["metadata"]["name"] == release.full
    assert only(objects, "Deployment", front)["metadata"]["name"] == release.router
    pod = servers["spec"]["template"]["spec"]
    mounted = {one["name"] for one in pod["initContainers"][0]["volumeMounts"]}
    assert mounted <= {one["name"] for one in pod["volumes"]}


def test_each_optional_kind_is_rendered() -> None:
    from scenarios.release import merged
    from scenarios.values import EVERYTHING

    kinds = {
        one["kind"] for more in EVERYTHING for one in render(merged(values(), more), "tenants")
    }
    assert kinds >= {
        *("GRPCRoute", "HTTPRoute", "HorizontalPodAutoscaler", "ScaledObject", "InferencePool"),
        *("PodMonitor", "PrometheusRule", "PodDisruptionBudget", "NetworkPolicy", "ServiceAccount"),
    }


def test_values_are_merged_as_helm_merges_them() -> None:
    from scenarios.release import merged

    below = {"a": {"b": 1, "c": 2}, "d": [1]}
    assert merged(below, {"a": {"c": 3}, "d": [2]}) == {"a": {"b": 1, "c": 3}, "d": [2]}
    assert below == {"a": {"b": 1, "c": 2}, "d": [1]}


@pytest.mark.parametrize(
    ("way", "status", "text", "killed", "counts", "fine"),
    [
        ("Service", "Unavailable", DIALING, False, (1, 0), True),
        ("Envoy", "Unavailable", DIALING, False, (1, 0), False),
        ("Envoy", "Unavailable", DIALING, True, (1, 0), False),
        ("Service", "Unavailable", "error reading from server: EOF", False, (0, 1), False),
        ("Service", "Unavailable", "error reading from server: EOF", True, (0, 1), True),
        ("Service", "Canceled", "stream terminated by RST_STREAM", True, (0, 1), False),
        (
            "Service",
            "Unavailable",
            "ConnectError: All connection attempts failed",
            False,
            (1, 0),
            True,
        ),
        ("Service", "HTTP 500", "HTTP 500: what", False, (0, 1), False),
    ],
)
def test_a_failed_call_is_refused_or_lost(
    way: str, status: str, text: str, killed: bool, counts: tuple[int, int], fine: bool
) -> None:
    from scenarios.verdict import judged

    report = {"statusCodeDistribution": {"OK": 9, status: 1}, "errorDistribution": {text: 1}}
    row = judged(report, way, killed)
    assert (row["refused"], row["lost"]) == counts
    assert row["ok"] is fine


def test_a_killed_envoys_address_may_refuse() -> None:
    from scenarios.verdict import judged

    report = {
        "statusCodeDistribution": {"OK": 9, "Unavailable": 1},
        "errorDistribution": {DIALING: 1},
    }
    assert judged(report, "Envoy", killed=True, refusing=True)["ok"]


def test_a_run_without_calls_is_no_success() -> None:
    from scenarios.verdict import judged

    assert not judged({"statusCodeDistribution": {}, "errorDistribution": {}}, "Envoy")["ok"]


def test_failures_and_the_table_name_what_does_not_hold() -> None:
    from scenarios.table import tables
    from scenarios.verdict import failures, judged

    ends = {"statusCodeDistribution": {"OK": 8, "Unavailable": 2}}
    reports = {"Service": {"EOF": 1, DIALING: 1}, "Envoy": {}}
    rows: list[dict[str, Any]] = [
        {"scenario": "kill", "measure": "a kill", "kind": "unary"}
        | judged(ends | {"errorDistribution": errors}, way)
        for way, errors in reports.items()
    ]
    rows[1] |= judged({"statusCodeDistribution": {"OK": 7}}, "Envoy")
    rows += [{"scenario": "install", "measure": "helm test", "value": "a|b", "ok": True}]
    assert failures(rows) == [
        f"kill: a kill, Service, unary: 1 refused and 1 lost of 10 (1 × EOF; 1 × {DIALING})"
    ]
    lines = tables(rows).splitlines()
    cell = "2 of 10 (1 refused, 1 lost) **not as promised**"
    assert lines[2] == f"| a kill | {cell} |  |  | 0 of 7 |  |  |"
    assert lines[-1] == "| helm test | a\\|b |"


def test_an_authority_issues_certificates_for_both_services(tmp_path: Path) -> None:
    from cryptography.x509 import DNSName, SubjectAlternativeName, load_pem_x509_certificate
    from scenarios.pki import Authority
    from scenarios.release import Release

    authority = Authority(tmp_path)
    release = Release("tenants", "space")
    first, second = (
        load_pem_x509_certificate(authority.issue(release)["tls_crt"]) for _ in range(2)
    )
    first.verify_directly_issued_by(load_pem_x509_certificate(authority.certificate))
    names = first.extensions.get_extension_for_class(SubjectAlternativeName).value
    wanted = {release.full, release.router, f"{release.router}.space.svc"}
    assert wanted <= set(names.get_values_for_type(DNSName))
    assert first.serial_number != second.serial_number
