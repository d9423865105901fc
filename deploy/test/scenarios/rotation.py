"""Edits that servers follow without a restart: declared adapters, tokens, certificates."""

from __future__ import annotations

import time
from collections.abc import Callable

import overlay
from cluster import wait

from scenarios.loads import Report
from scenarios.stage import Stage
from scenarios.values import ADAPTERS, SPARE, TLS, TOKENS, entries

MOST_S = 180
"""A kubelet looks at what it has mounted every minute or so."""


def adapters(stage: Stage) -> None:
    """An adapter more by helm upgrade: no pod is replaced."""
    stage.prepare()
    before = stage.cluster.ready()
    with stage.calls("an adapter more in the values"):
        stage.apply(adapters={"manifest": {"adapters": entries([*ADAPTERS, SPARE[0]])}})
        times = each(stage, lambda one: one["status"] == "OK", adapter=SPARE[0])
        time.sleep(5)
    stage.fact("from an edit of adapters until each pod serves it", shown(times), True)
    replaced = {*before} - {*stage.cluster.ready()}
    stage.fact("pods that an edit of adapters replaces", str(len(replaced)), not replaced)


def secrets(stage: Stage) -> None:
    """A token more and another certificate; then one token less."""
    stage.prepare()
    keep, first, second = stage.tokens
    give(stage, keep, first)
    each(stage, lambda one: one["status"] == "OK", token=first)
    old = {one["certificate"] for one in stage.probe(*stage.addresses()).values()}
    with stage.calls("rotation of a token and of the certificate"):
        give(stage, keep, first, second)
        files = stage.authority.issue(stage.release)
        stage.cluster.apply(overlay.secret(TLS, "kubernetes.io/tls", **files))
        accepted = each(stage, lambda one: one["status"] == "OK", token=second)
        renewed = each(stage, lambda one: one["certificate"] not in {*old, ""})
        give(stage, keep, second)
        refused = each(stage, lambda one: one["status"] == "UNAUTHENTICATED", token=first)
    stage.fact("from a new token until each pod takes it", shown(accepted), True)
    stage.fact("from then until each pod and Envoy shows the new certificate", shown(renewed), True)
    stage.fact("from a token's end until each pod refuses it", shown(refused), True)


def give(stage: Stage, *tokens: str) -> None:
    """Only these tokens are good from now on."""
    text = "".join(stage.tokens[token] for token in tokens)
    stage.cluster.apply(overlay.secret(TOKENS, tokens_yaml=text.encode()))


def each(stage: Stage, holds: Callable[[Report], bool], **asked: str) -> list[float]:
    """Seconds from now until `holds` of each address. Raises TimeoutError."""
    began, left, times = time.monotonic(), set(stage.addresses()), list[float]()

    def all_hold() -> bool:
        done = {at for at, one in stage.probe(*sorted(left), **asked).items() if holds(one)}
        times.extend([time.monotonic() - began] * len(done))
        left.difference_update(done)
        return not left

    wait(all_hold, MOST_S, "pods that have followed", pause=1)
    return times


def shown(times: list[float]) -> str:
    return f"{min(times):.0f} to {max(times):.0f} s"
