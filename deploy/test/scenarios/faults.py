"""What operators get wrong under calls: an adapter that is not there, a volume that is full."""

from __future__ import annotations

import time
from functools import partial

from cluster import name, wait

from scenarios.rotation import each
from scenarios.stage import Stage
from scenarios.values import ADAPTERS, SPARE, entries


def broken(stage: Stage) -> None:
    """A declared adapter that does not load, beside a setting: the rollout stops, and the old pods serve."""
    stage.prepare()
    old = stage.cluster.ready()
    missing = {"name": "missing", "source": "/models/adapters/missing"}
    with stage.calls("a declared adapter that is missing, and a rollout"):
        manifest = {"adapters": [*entries(ADAPTERS), missing]}
        stage.apply(adapters={"manifest": manifest}, settings={"max_running": 25})
        wait(lambda: len(stage.cluster.pods()) == 3, 60, "third pod")
        new = name(stage.cluster.pods()[-1])
        wait(partial(says, stage, new, "not ready"), 180, "log line of the new pod")
        time.sleep(45)
        kept, came = (
            [pod for pod in old if pod in stage.cluster.ready()],
            new in stage.cluster.ready(),
        )
        stage.apply()
        stage.settle()
    stage.fact("the rollout stops at the new pod", "no" if came else "yes", not came)
    stage.fact("old pods of 2 that stay ready", str(len(kept)), len(kept) == 2)


def says(stage: Stage, pod: str, text: str) -> bool:
    return any(text in line for line in stage.cluster.logs(pod))


def cache(stage: Stage) -> None:
    """Adapters of a store that are more than the cache's volume holds, and then fewer."""
    small = {"cache": {"emptyDir": {"medium": "Memory", "sizeLimit": "6Mi"}}}
    stage.prepare(volumes=small)
    local = entries(ADAPTERS)
    with stage.calls("a cache volume that is full"):
        many = {"adapters": [*local, *entries(SPARE, "file://")]}
        stage.apply(volumes=small, adapters={"manifest": many})
        pods = stage.cluster.ready()
        for pod in pods:
            wait(partial(says, stage, pod, "No space left"), 180, f"full cache in {pod}")
        time.sleep(10)
        ready = stage.cluster.ready()
        one = {"adapters": [*local, *entries(SPARE[:1], "file://")]}
        stage.apply(volumes=small, adapters={"manifest": one})
        each(stage, lambda found: found["status"] == "OK", adapter=SPARE[0])
    stage.fact("pods of 2 that stay ready with a full cache", str(len(ready)), ready == pods)
    stage.fact("the log says that the volume is full", "yes", True)
