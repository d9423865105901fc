"""What operators get wrong under calls: an adapter that is not there, a volume that is full."""

from __future__ import annotations

import time
from functools import partial

from cluster import name, wait

from scenarios.rotation import followed, served, shown
from scenarios.stage import Stage
from scenarios.values import ADAPTERS, SPARE, entries

_FILL = """
import contextlib
with contextlib.suppress(OSError), open("/cache/filler", "wb", buffering=0) as file:
    while file.write(bytes(1 << 12)):
        pass
"""
_EMPTY = "import os; os.remove('/cache/filler')"


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
        for pod in old:  # they see the entry, too
            wait(partial(says, stage, pod, "missing"), 180, f"log line of {pod}")
        time.sleep(20)
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
    """A cache volume without room for an adapter that is declared; then there is room again."""
    small = {"cache": {"emptyDir": {"medium": "Memory", "sizeLimit": "6Mi"}}}
    stage.prepare(volumes=small)
    pods = stage.cluster.ready()
    manifest = {"adapters": [*entries(ADAPTERS), *entries(SPARE[:1], "file://")]}
    with stage.calls("a full cache volume"):
        for pod in pods:
            stage.cluster.python(pod, _FILL)
        stage.apply(volumes=small, adapters={"manifest": manifest})
        for pod in pods:
            wait(partial(says, stage, pod, "No space left"), 180, f"log line of {pod}")
        time.sleep(10)
        ready = stage.cluster.ready()
        for pod in pods:
            stage.cluster.python(pod, _EMPTY)
        times = followed(stage, {"served": served}, adapter=SPARE[0])["served"]
    stage.fact("pods of 2 that stay ready with a full cache", str(len(ready)), ready == pods)
    stage.fact("from room in the cache until each pod serves the adapter", shown(times), True)
