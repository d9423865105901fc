"""A placement in Envoy's words: a filter that names, by adapter, the hosts to try.

The filter comes by extension config discovery. It looks the request's adapter up in a map, so that
ten thousand cost a request as much as ten, and writes hosts into a header by which the cluster's
`override_host` policy picks; where there is no entry, or no such host is healthy, the policy's
fallback does. An adapter on several replicas has a list of hosts that begins with each, and a
fraction of the requests gets each list.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .plan import Placement
from .targets import Address, Protocol

ADAPTER_HEADER = "x-loramux-adapter"
DRAW_HEADER = "x-loramux-draw"
"""Holds what differs with every request: what a fraction is drawn by."""
HOSTS_HEADER = "x-gateway-destination-endpoint"
RESOURCES: dict[str, Protocol] = {
    "loramux.placement.grpc": "grpc",
    "loramux.placement.http": "http",
}
"""What Envoy asks for, by the protocol of the listener that it is for."""
RESOURCE_TYPE = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
_TYPE = "type.googleapis.com/envoy."
_MILLION = 1_000_000


def version_of(placement: Placement) -> str:
    """Name a placement: equal ones have equal names."""
    return hashlib.sha256(json.dumps(placement, sort_keys=True).encode()).hexdigest()[:16]


def response(
    placement: Placement, addresses: Mapping[str, Address], names: Iterable[str]
) -> dict[str, Any]:
    """Make the answer to Envoy's request for resources. Raises ValueError for one whose name is not
    in RESOURCES."""
    return {
        "version_info": version_of(placement),
        "type_url": RESOURCE_TYPE,
        "resources": [
            {"@type": RESOURCE_TYPE, "name": name, "typed_config": _filter(placement, hosts)}
            for name in names
            for hosts in [_hosts(addresses, name)]
        ],
    }


def _hosts(addresses: Mapping[str, Address], name: str) -> dict[str, str]:
    if name not in RESOURCES:
        raise ValueError(f"there is no {name!r}, but {' and '.join(RESOURCES)}")
    protocol = RESOURCES[name]
    return {replica: address.served_at(protocol) for replica, address in addresses.items()}


def _filter(placement: Placement, hosts: Mapping[str, str]) -> dict[str, Any]:
    entries = {adapter: _entry(ways, hosts) for adapter, ways in placement.items()}
    matcher: dict[str, Any] = {}
    if entries:  # an empty map is refused
        tree = {"input": _header(ADAPTER_HEADER), "exact_match_map": {"map": entries}}
        matcher = {"matcher_tree": tree}
    composite = {"@type": f"{_TYPE}extensions.filters.http.composite.v3.Composite"}
    return {
        "@type": f"{_TYPE}extensions.common.matching.v3.ExtensionWithMatcher",
        "xds_matcher": matcher,
        "extension_config": {"name": "composite", "typed_config": composite},
    }


def _entry(ways: Sequence[tuple[str, float]], hosts: Mapping[str, str]) -> dict[str, Any]:
    """Say what happens to an adapter's requests. `ways`: its replicas, with their shares."""
    order = [hosts[replica] for replica, _ in ways]
    left = 1.0
    matchers = []
    for i, (_, share) in enumerate(ways[:-1]):
        matchers.append(
            {
                "predicate": {"single_predicate": _fraction(share / left, seed=i)},
                "on_match": _action([order[i], *order[:i], *order[i + 1 :]]),
            }
        )
        left -= share
    last = _action([order[-1], *order[:-1]])
    if not matchers:
        return last
    return {"matcher": {"matcher_list": {"matchers": matchers}, "on_no_match": last}}


def _fraction(share: float, seed: int) -> dict[str, Any]:
    fraction = {"numerator": min(_MILLION, round(share * _MILLION)), "denominator": "MILLION"}
    match = {
        "@type": f"{_TYPE}extensions.matching.input_matchers.runtime_fraction.v3.RuntimeFraction",
        "runtime_fraction": {"default_value": fraction},
        "seed": seed,
    }
    return {
        "input": _header(DRAW_HEADER),
        "custom_match": {"name": "fraction", "typed_config": match},
    }


def _header(name: str) -> dict[str, Any]:
    kind = f"{_TYPE}type.matcher.v3.HttpRequestHeaderMatchInput"
    return {"name": "header", "typed_config": {"@type": kind, "header_name": name}}


def _action(hosts: Sequence[str]) -> dict[str, Any]:
    """Say that these hosts are to be tried, in this order."""
    mutation = {
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        "header": {"key": HOSTS_HEADER, "value": ",".join(hosts)},
    }
    filter_config = {
        "@type": f"{_TYPE}extensions.filters.http.header_mutation.v3.HeaderMutation",
        "mutations": {"request_mutations": [{"append": mutation}]},
    }
    execute = {
        "@type": f"{_TYPE}extensions.filters.http.composite.v3.ExecuteFilterAction",
        "typed_config": {"name": "hosts", "typed_config": filter_config},
    }
    return {"action": {"name": "hosts", "typed_config": execute}}
