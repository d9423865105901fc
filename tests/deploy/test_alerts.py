"""Prometheus' own tool takes the rules, each alert fires on what it is for, and none on a good day."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from .helm import render

PROMTOOL = shutil.which("promtool")
pytestmark = pytest.mark.skipif(
    PROMTOOL is None, reason="no promtool (Debian's package prometheus)"
)
PODS = ("one", "two")
RELEASE = {"namespace": "models", "job": "some-loramux"}
GOOD = {
    "up": "1x60",
    "loramux_ready": "1x60",
    "loramux_not_ready{reason='draining'}": "0x60",
    "loramux_engine_failed": "0x60",
    "process_start_time_seconds": "1000x60",
    "loramux_log_lines_dropped_total": "0x60",
    "loramux_rpcs_total{method='loramux.v1.Inference/Generate',code='OK'}": "0+600x60",
    "loramux_rpcs_total{method='loramux.v1.Inference/Generate',code='INTERNAL'}": "0+1x60",
    "loramux_http_requests_total{route='/v1/models',status='200'}": "0+600x60",
    "loramux_http_requests_total{route='/v1/models',status='500'}": "0+1x60",
    "loramux_time_to_first_token_seconds_bucket{le='1.0'}": "0+599x60",
    "loramux_time_to_first_token_seconds_bucket{le='10.0'}": "0+599x60",
    "loramux_time_to_first_token_seconds_bucket{le='30.0'}": "0+600x60",
    "loramux_time_to_first_token_seconds_bucket{le='+Inf'}": "0+600x60",
    "loramux_waiting_sequences": "200x60",
    "loramux_max_waiting_sequences": "512x60",
    "loramux_requests_total{adapter='a',outcome='ok'}": "0+600x60",
    "loramux_requests_rejected_total{reason='InvalidRequest'}": "0+600x60",
    "loramux_requests_rejected_total{reason='QueueFull'}": "0+1x60",
    "loramux_kv_blocks_used": "90x60",
    "loramux_kv_blocks": "100x60",
    "loramux_calls_refused_total{reason='unauthenticated'}": "0+10x60",
    "loramux_adapter_load_failures_total": "0x60",
    "loramux_declared_adapters{state='failed'}": "0x60",
    "loramux_out_of_service_adapters": "0x60",
    "loramux_adapters_digest": "281474976710655x60",
    "loramux_adapter_wait_seconds_bucket{le='0.0'}": "0+590x60",
    "loramux_adapter_wait_seconds_count": "0+600x60",
    "loramux_adapter_evictions_total{reason='evicted'}": "0+10x60",
}
"""Values of each minute, of both pods."""
BAD: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "LoramuxNobodyServes": ({"loramux_ready": "0x60"}, {}),
    "LoramuxEngineFailed": ({"loramux_engine_failed": "0x30 1x30"}, {"pod": "two"}),
    "LoramuxCallsFail": (
        {"loramux_http_requests_total{route='/v1/models',status='500'}": "0+20x60"},
        {},
    ),
    "LoramuxNotReady": (
        {"loramux_not_ready{reason='draining'}": "0x30 1x30"},
        {"pod": "two", "reason": "draining"},
    ),
    "LoramuxRestarts": ({"process_start_time_seconds": "1+1x60"}, {"pod": "two"}),
    "LoramuxScrapeFails": ({"up": "1x30 0x30"}, {"pod": "two"}),
    "LoramuxLogLinesDropped": ({"loramux_log_lines_dropped_total": "0+1x60"}, {"pod": "two"}),
    "LoramuxFirstTokenLate": (
        {
            "loramux_time_to_first_token_seconds_bucket{le='1.0'}": "0+500x60",
            "loramux_time_to_first_token_seconds_bucket{le='10.0'}": "0+500x60",
        },
        {},
    ),
    "LoramuxQueueFills": ({"loramux_waiting_sequences": "200x40 500x20"}, {"pod": "two"}),
    "LoramuxRequestsRejected": (
        {"loramux_requests_rejected_total{reason='QueueFull'}": "0+200x60"},
        {"reason": "QueueFull"},
    ),
    "LoramuxKVCacheFull": ({"loramux_kv_blocks_used": "90x40 99x20"}, {"pod": "two"}),
    "LoramuxTokensRefused": (
        {"loramux_calls_refused_total{reason='unauthenticated'}": "0+200x60"},
        {"reason": "unauthenticated"},
    ),
    "LoramuxAdapterLoadsFail": (
        {"loramux_adapter_load_failures_total": "0x50 1x10"},
        {"pod": "two"},
    ),
    "LoramuxDeclaredAdaptersFail": (
        {"loramux_declared_adapters{state='failed'}": "0x40 2x20"},
        {"pod": "two"},
    ),
    "LoramuxAdapterOutOfService": (
        {"loramux_out_of_service_adapters": "0x50 1x10"},
        {"pod": "two"},
    ),
    "LoramuxAdaptersDiffer": ({"loramux_adapters_digest": "281474976710654x60"}, {}),
    "LoramuxSlotsThrash": ({"loramux_adapter_wait_seconds_bucket{le='0.0'}": "0+100x60"}, {}),
}
"""What is otherwise with pod two (if nobody serves with both), and the alert's labels then."""


def series(changed: dict[str, str], pods: Iterable[str]) -> list[dict[str, str]]:
    made = []
    for pod in PODS:
        for name, values in (GOOD | (changed if pod in pods else {})).items():
            metric, _, labels = name.rstrip("}").partition("{")
            own = ",".join(f'{key}="{value}"' for key, value in (RELEASE | {"pod": pod}).items())
            both = ",".join(filter(None, (own, labels.replace("'", '"'))))
            made.append({"series": f"{metric}{{{both}}}", "values": values})
    return made


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    values = {"monitoring": {"alerts": {"enabled": True}}}
    found = render(values, release="some", namespace="models")
    (rule,) = [one for one in found if one["kind"] == "PrometheusRule"]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(rule["spec"]))
    return file


def promtool(*arguments: object) -> None:
    ran = subprocess.run([str(PROMTOOL), *map(str, arguments)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def case(alert: str, changed: dict[str, str], fires: dict[str, str]) -> dict[str, Any]:
    """A test of promtool: the alert fires with these labels at its end."""
    firing = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
    expected = {"labels": labels({"alertname": alert} | fires), "value": 1}
    pods = PODS if alert == "LoramuxNobodyServes" else PODS[1:]
    return _case(series(changed, pods), f"count by (alertname, pod, reason) ({firing})", [expected])


def _case(
    given: list[dict[str, str]], query: str, expected: list[dict[str, object]]
) -> dict[str, Any]:
    asked = {"expr": query, "eval_time": "55m", "exp_samples": expected}
    return {"interval": "1m", "input_series": given, "promql_expr_test": [asked]}


def labels(of: dict[str, str]) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in of.items()) + "}"


def test_promtool_takes_the_rules(rules: Path) -> None:
    promtool("check", "rules", rules)


def test_each_alert_fires_on_what_it_is_for_and_on_no_good_day(rules: Path, tmp_path: Path) -> None:
    groups = yaml.safe_load(rules.read_text())["groups"]
    assert {rule["alert"] for group in groups for rule in group["rules"]} == BAD.keys()
    cases = [
        _case(series({}, ()), 'ALERTS{alertstate="firing"}', []),
        *(case(alert, changed, fires) for alert, (changed, fires) in BAD.items()),
    ]
    file = tmp_path / "cases.yaml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "5m", "tests": cases})
    )
    promtool("test", "rules", file)
