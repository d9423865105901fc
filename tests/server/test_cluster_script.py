"""deploy/test without a cluster: its patches fit the manifest, its models serve, its table is right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from lora_runtime import Engine, Request, SamplingParams
from server.config import Settings

FOLDER = Path(__file__).parents[2] / "deploy" / "test"


@pytest.fixture
def overlay(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    import overlay

    return overlay


def test_patches_name_what_the_manifest_has(overlay: ModuleType) -> None:
    objects = {one["kind"]: one for one in yaml.safe_load_all(overlay.MANIFEST.read_text())}
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    patch = overlay.deployment(overlay.Target("an-image"), overlay.Variant())
    assert patch["metadata"]["name"] == objects["Deployment"]["metadata"]["name"]
    changed = patch["spec"]["template"]["spec"]
    assert changed["containers"][0]["name"] == pod["containers"][0]["name"]
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert "persistentVolumeClaim" in volumes[changed["volumes"][0]["name"]]
    assert objects["Service"]["spec"]["clusterIP"] == "None"  # which a variant removes
    for name in changed["containers"][0]["env"]:
        assert name["name"].removeprefix("LORAMUX_").lower() in Settings.model_fields


def test_settings_are_read_from_the_manifest(overlay: ModuleType) -> None:
    assert overlay.setting("health_port") == 50052
    assert overlay.setting("no_such_setting", 7) == 7


def test_the_pods_own_model_serves(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(FOLDER / "models.py"), str(tmp_path)], check=True)
    with Engine(tmp_path / "base") as engine:
        engine.load_adapter(tmp_path / "adapters" / "support")
        sampling = SamplingParams(max_new_tokens=4, ignore_eos=True)
        result = engine.generate(Request("hello", adapter_id="support", sampling=sampling))
    assert len(result.choices[0].token_ids) == 4


def test_the_table_has_both_labels(tmp_path: Path) -> None:
    def calls(failed: int) -> dict[str, object]:
        statuses = {"OK": 10 - failed} | ({"Unavailable": failed} if failed else {})
        return {"measure": "rollout", "calls": 10, "failed": failed, "by_status": statuses}

    late = {"measure": "other", "value": "a | b"}
    results = {"before": {"rows": [late, calls(3)]}, "after": {"rows": [calls(0)]}}
    (tmp_path / "cluster.json").write_text(json.dumps(results))
    page = tmp_path / "page.md"
    page.write_text("x\n<!-- table cluster -->\nold\n<!-- end -->\ny\n")
    subprocess.run(
        [sys.executable, str(FOLDER / "table.py"), str(tmp_path / "cluster.json"), str(page)],
        check=True,
    )
    assert page.read_text() == (
        "x\n<!-- table cluster -->\n| | before | after |\n| --- | --- | --- |\n"
        "| rollout | 3 of 10 (3 Unavailable) | 0 of 10 |\n| other | a \\| b |  |\n<!-- end -->\ny\n"
    )
