"""Envoys that end under calls."""

from __future__ import annotations

import time

from cluster import container, name, wait

from scenarios.stage import Stage

_KILL = "import resource as r; r.prlimit(1, r.RLIMIT_CPU, (1, 1))"


def kill(stage: Stage) -> None:
    """SIGKILL of one of two Envoys: what runs through it is lost; for a moment its Service still names it."""
    stage.prepare()
    with stage.calls("SIGKILL of 1 of 2 Envoys", ("Envoy",), ("Envoy",)):
        _kill_one(stage)


def kill_headless(stage: Stage) -> None:
    """The same with a headless Service, by which clients know both Envoys: none is refused."""
    stage.release.uninstall()  # a Service's address cannot be changed
    try:
        stage.prepare(router={"service": {"clusterIP": "None"}})
        with stage.calls("SIGKILL of 1 of 2 Envoys, whose Service is headless", ("Envoy",)):
            _kill_one(stage)
    finally:
        stage.release.uninstall()


def _kill_one(stage: Stage) -> None:
    pod = name(stage.routers()[0])
    stage.debug(pod, _KILL)
    wait(lambda: container(stage.cluster.get("pod", pod))["restartCount"], 60, "restart of Envoy")
    wait(lambda: len(stage.routers()) == 2, 60, "two Envoys")
    time.sleep(10)


def rollout(stage: Stage) -> None:
    """Both Envoys are replaced, by another configuration."""
    stage.prepare()
    old = {name(pod) for pod in stage.routers()}
    with stage.calls("rolling update of 2 Envoys"):
        stage.apply(router={"maxConnections": 9999})
        stage.settle()
        wait(
            lambda: not old & {name(pod) for pod in stage.pods(stage.of_routers)},
            180,
            "end of the old Envoys",
        )
