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


Seen = dict[str, Callable[[Report], bool]]


def adapters(stage: Stage) -> None:
    """An adapter more by helm upgrade: no pod is replaced."""
    stage.prepare()
    before = stage.cluster.ready()
    with stage.calls("an adapter more in the values"):
        stage.apply(adapters={"manifest": {"adapters": entries([*ADAPTERS, SPARE[0]])}})
        times = followed(stage, {"served": served}, adapter=SPARE[0])["served"]
        time.sleep(5)
    stage.fact("from an edit of adapters until each pod serves it", shown(times), True)
    replaced = {*before} - {*stage.cluster.ready()}
    stage.fact("pods that an edit of adapters replaces", str(len(replaced)), not replaced)


def secrets(stage: Stage) -> None:
    """A token more and another certificate; then one token less."""
    stage.prepare()
    keep, first, second = stage.tokens
    give(stage, keep, first)
    followed(stage, {"accepted": served}, token=first)
    old = {one["certificate"] for one in stage.probe(*stage.addresses()).values()}
    renewed: Seen = {"renewed": lambda one: one["certificate"] not in {*old, ""}}
    with stage.calls("rotation of a token and of the certificate"):
        give(stage, keep, first, second)
        files = stage.authority.issue(stage.release)
        stage.cluster.apply(overlay.secret(TLS, "kubernetes.io/tls", **files))
        times = followed(stage, {"accepted": served} | renewed, token=second)
        give(stage, keep, second)
        times |= followed(stage, {"refused": refused}, token=first)
    stage.fact("from a new token until each pod takes it", shown(times["accepted"]), True)
    stage.fact("from a new certificate until each pod shows it", shown(times["renewed"]), True)
    stage.fact("from a token's end until each pod refuses it", shown(times["refused"]), True)


def give(stage: Stage, *tokens: str) -> None:
    """Only these tokens are good from now on."""
    text = "".join(stage.tokens[token] for token in tokens)
    stage.cluster.apply(overlay.secret(TOKENS, tokens_yaml=text.encode()))


def served(one: Report) -> bool:
    return bool(one["status"] == "OK")


def refused(one: Report) -> bool:
    return bool(one["status"] == "UNAUTHENTICATED")


def followed(stage: Stage, wanted: Seen, **asked: str) -> dict[str, list[float]]:
    """Seconds from now until each server and each Envoy is seen as wanted. Raises TimeoutError."""
    began, addresses = time.monotonic(), stage.addresses()
    left = {(what, at) for what in wanted for at in addresses}
    times: dict[str, list[float]] = {what: [] for what in wanted}

    def all_have() -> bool:
        found = stage.probe(*sorted({at for _, at in left}), **asked)
        for what, at in [one for one in left if wanted[one[0]](found[one[1]])]:
            times[what].append(time.monotonic() - began)
            left.remove((what, at))
        return not left

    wait(all_have, MOST_S, "pods that have followed", pause=1)
    return times


def shown(times: list[float]) -> str:
    return f"{min(times):.0f} to {max(times):.0f} s"
