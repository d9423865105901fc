"""How Envoy picks a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Policy:
    """A load balancing policy of Envoy's."""

    name: str
    lb_policy: str
    balance: int = 0
    """Part of the mean load, in percent, that a server may have before calls go to the next; 0: any."""

    def apply(self, cluster: dict[str, Any]) -> None:
        """Change the cluster's policy, and nothing else."""
        cluster["lb_policy"] = self.lb_policy
        common = cluster.setdefault("common_lb_config", {})
        common.pop("consistent_hashing_lb_config", None)
        if self.balance:
            common["consistent_hashing_lb_config"] = {"hash_balance_factor": self.balance}


ROUND_ROBIN = Policy("round robin", "ROUND_ROBIN")
POLICIES = (
    ROUND_ROBIN,
    Policy("least request", "LEAST_REQUEST"),
    Policy("hash", "MAGLEV"),
    Policy("hash, bound 150 %", "MAGLEV", 150),
    Policy("hash, bound 200 %", "MAGLEV", 200),
)
