"""More and fewer servers under calls, and whether new ones get their share."""

from __future__ import annotations

import time

from cluster import name

from scenarios.stage import Stage

_COUNT = """
import re, urllib.request
text = urllib.request.urlopen("http://localhost:9464/metrics").read().decode()
print(sum(float(n) for n in re.findall(r"^loramux_requests_total\\{.*\\} (\\S+)", text, re.M)))
"""
MINUTE = 60


def scale(stage: Stage) -> None:
    """1 → 3 → 1 servers; a minute after they are ready new ones must have their share."""
    stage.prepare(replicas=1)
    with stage.calls("1 → 3 → 1 servers"):
        stage.apply(replicas=3)
        stage.cluster.wait_ready(3, 300)
        time.sleep(MINUTE)
        before = served(stage)
        time.sleep(20)
        share = {pod: n - before[pod] for pod, n in served(stage).items()}
        stage.apply(replicas=1)
        stage.settle()
    even = sum(share.values()) / 3
    # By the hash a server has some adapters, not an even share; over the Service all have the same.
    fine = min(share.values()) >= even / 3
    each = " / ".join(f"{n:.0f}" for n in share.values())
    stage.fact("calls of each server in 20 s, a minute after the new ones are ready", each, fine)


def served(stage: Stage) -> dict[str, float]:
    """Requests that each server has ended, oldest first."""
    pods = [name(pod) for pod in stage.cluster.pods()]
    return {pod: float(stage.cluster.python(pod, _COUNT)) for pod in pods}
