"""What is done to a release of the chart while calls come in over its Service and through its Envoy."""

from __future__ import annotations

from collections.abc import Callable

from scenarios import ends, faults, install, policies, rolling, rotation, routers, scaling
from scenarios.stage import Stage

SCENARIOS: dict[str, Callable[[Stage], None]] = {
    "install": install.install,
    "kinds": install.kinds,
    "policies": policies.policies,
    "image": rolling.image,
    "settings": rolling.settings,
    "scale": scaling.scale,
    "adapters": rotation.adapters,
    "secrets": rotation.secrets,
    "deletion": ends.deletion,
    "kill": ends.kill,
    "drain": ends.drain,
    "broken": faults.broken,
    "cache": faults.cache,
    "envoy-kill": routers.kill,
    "envoy-rollout": routers.rollout,
    "envoy-kill-headless": routers.kill_headless,
    "uninstall": install.uninstall,
}
