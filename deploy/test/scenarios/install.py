"""A release's beginning and end, and the kinds that it can have."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

from cluster import wait

from scenarios.release import merged
from scenarios.stage import Stage
from scenarios.values import EVERYTHING


def install(stage: Stage) -> None:
    """From helm install to the first token, by both ways; then helm test."""
    stage.release.uninstall()
    wait(lambda: not left(stage), 180, "end of the release before")
    began = time.monotonic()
    stage.apply()
    for way, host in (("Service", stage.release.full), ("Envoy", stage.release.router)):
        target = f"{host}:50051"
        wait(lambda: stage.probe(target)[target]["status"] == "OK", 300, f"token by {way}")  # noqa: B023
        seconds = time.monotonic() - began
        stage.fact(f"helm install to the first token, by {way}", f"{seconds:.0f} s", True)
    stage.settle()
    stage.fact("helm install to all pods ready", f"{time.monotonic() - began:.0f} s", True)
    tested = stage.release.run("test", stage.release.name, "--timeout", "3m")
    fine = "Succeeded" in tested
    stage.fact("helm test", "succeeds" if fine else tested, fine)


def kinds(stage: Stage) -> None:
    """The API server takes each optional kind, as far as it knows it (dry run)."""
    if stage.crds:
        stage.cluster.run("apply", "--server-side", "-f", str(stage.crds))
    known = {
        line.split()[-1] for line in stage.cluster.run("api-resources", "--no-headers").splitlines()
    }
    rendered = [one for values in EVERYTHING for one in _objects(stage, values)]
    unknown = {one["kind"] for one in rendered} - known
    taken = {one["kind"] for one in rendered} & known
    errors = _dry_run(stage, [one for one in rendered if one["kind"] in known])
    stage.fact("kinds that the API server takes", ", ".join(sorted(taken)), not errors)
    for error in errors:
        stage.fact("what it refuses", error, False)
    if unknown:
        stage.fact("kinds that it does not know", ", ".join(sorted(unknown)))


def _objects(stage: Stage, values: dict[str, Any]) -> list[dict[str, Any]]:
    """What these values render, as kubectl reads it."""
    text = stage.release.template(merged(stage.values, values))
    command = ["create", "--dry-run=client", "--validate=false", "-o", "json", "-f", "-"]
    return _listed(stage.cluster.run(*command, stdin=text))


def _listed(text: str) -> list[dict[str, Any]]:
    """JSON objects one behind the other, and those in lists."""
    found: list[dict[str, Any]] = []
    decoder = json.JSONDecoder()
    while text := text.strip():
        one, end = decoder.raw_decode(text)
        found += one["items"] if one["kind"] == "List" else [one]
        text = text[end:]
    return found


def _dry_run(stage: Stage, objects: list[dict[str, Any]]) -> list[str]:
    """What the API server refuses of them, a text each."""
    found = {f"{one['kind']} {json.dumps(one, sort_keys=True)}": one for one in objects}
    flags = ["apply", "--server-side", "--dry-run=server", "--field-manager=cluster-test"]
    command = stage.cluster.command(*flags, "--force-conflicts", "--validate=strict", "-f", "-")
    text = "\n---\n".join(json.dumps(one) for one in found.values())
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    return done.stderr.strip().splitlines() if done.returncode else []


def uninstall(stage: Stage) -> None:
    """helm uninstall leaves nothing of the release."""
    stage.prepare()
    stage.release.uninstall()
    wait(lambda: not left(stage), 180, "end of the pods")
    stage.fact("objects that helm uninstall leaves", str(len(left(stage))), True)


def left(stage: Stage) -> list[str]:
    """All namespaced objects that have the release's label."""
    names = stage.cluster.run("api-resources", "--namespaced", "--verbs=list", "-o", "name").split()
    kinds = ",".join(one for one in names if not one.startswith("events"))
    of = [
        "-l",
        f"app.kubernetes.io/instance={stage.release.name}",
        "-o",
        "name",
        "--ignore-not-found",
    ]
    return stage.cluster.run("get", kinds, *of).split()
