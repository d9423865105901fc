"""How Envoy picks a server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_TYPES = "type.googleapis.com/envoy.extensions.load_balancing_policies"


@dataclass(frozen=True)
class Policy:
    """A load balancing policy, in the place of the one that the chart's Envoy has."""

    name: str
    kind: tuple[str, str] | None = None
    """Envoy's extension and its message; None: what the chart has stays."""
    config: dict[str, Any] = field(default_factory=dict, hash=False)
    placement: bool = False
    """Whether `loramux placement` names the servers."""

    def apply(self, cluster: dict[str, Any]) -> None:
        """Change the cluster's policy, and nothing else."""
        if self.kind is None:
            return
        extension, message = self.kind
        typed = {"@type": f"{_TYPES}.{extension}.v3.{message}", **self.config}
        name = f"envoy.load_balancing_policies.{extension}"
        extensions = [{"typed_extension_config": {"name": name, "typed_config": typed}}]
        cluster["load_balancing_policy"] = {"policies": extensions}


def _hash(name: str, balance: int = 0) -> Policy:
    """Maglev; `balance`: what a server may have of the mean in percent, 0 for no bound."""
    bound = {"consistent_hashing_lb_config": {"hash_balance_factor": balance}} if balance else {}
    return Policy(name, ("maglev", "Maglev"), bound)


ROUND_ROBIN = Policy("round robin", ("round_robin", "RoundRobin"))
POLICIES = (
    ROUND_ROBIN,
    Policy("least request", ("least_request", "LeastRequest")),
    _hash("hash"),
    _hash("hash, bound 150 %", 150),
    _hash("hash, bound 200 %", 200),
    Policy("placement", placement=True),
)
