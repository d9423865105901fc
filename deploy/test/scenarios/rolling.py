"""Rolling updates under calls."""

from __future__ import annotations

import json

from scenarios import values
from scenarios.stage import Stage


def image(stage: Stage) -> None:
    """Another image of the servers, by helm upgrade."""
    if not stage.images.other:
        stage.fact("another image", "not run: --other-image names none")
        return
    stage.prepare()
    with stage.calls("update of the image"):
        stage.apply(image=values.image(stage.images.other))
        stage.settle()
    runs = str(stage.cluster.pods()[-1]["spec"]["containers"][0]["image"])
    stage.fact("the image that runs then", runs, runs == stage.images.other)


def settings(stage: Stage) -> None:
    """Another setting by helm upgrade, and back by helm rollback."""
    stage.prepare()
    before = running(stage)
    with stage.calls("update of a setting, and helm rollback"):
        stage.apply(settings={"max_running": 24})
        stage.settle()
        changed = running(stage)
        stage.release.run("rollback", stage.release.name)
        stage.settle()
    stage.fact(
        "the setting before, then, after", f"{before}, {changed}, {running(stage)}", changed == 24
    )
    stage.fact("helm rollback restores it", str(running(stage) == before), running(stage) == before)


def running(stage: Stage) -> int:
    """The setting as a server has it."""
    pod = stage.cluster.pods()[-1]["metadata"]["name"]
    read = "import yaml; print(yaml.safe_load(open('/etc/loramux/loramux.yaml')).get('max_running', 0))"
    return int(json.loads(stage.cluster.python(pod, read)))
