"""Replicas, and the router before them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from server.placement.board import Replica as Seen

from .costs import Costs, Process
from .events import Events
from .host import Host, Thread
from .replica import Replica, Sizes
from .routers import Router

MakeRouter = Callable[["Fleet"], Router]


class Fleet:
    """Replicas with a router, as the router's View.

    `shared`: all on one host of so many cores, as in the measurement; else each has its own.
    """

    def __init__(
        self,
        events: Events,
        count: int,
        costs: Costs,
        sizes: Sizes,
        make_router: MakeRouter,
        *,
        seed: int,
        cores: int = 2,
        shared: bool = False,
    ) -> None:
        self.events = events
        hosts = (
            [Host(events, cores, costs.beside)] * count
            if shared
            else [Host(events, cores, costs.beside) for _ in range(count)]
        )
        self._ways = [(p, Thread(hosts[0], p.wake)) for p in (costs.client, costs.envoy) if shared]
        self.loaded_s: list[float] = []
        """When each load was through."""
        self.slots = sizes.config.max_adapters
        self.replicas = [
            Replica(events, host, costs, sizes, random.Random(f"loads {seed} {i}"), self._loaded)
            for i, host in enumerate(hosts)
        ]
        self.active = [0] * count
        self.alive = list(range(count))
        self.route_by(make_router, seed)

    def route_by(self, make_router: MakeRouter, seed: int) -> None:
        """Put another router before the replicas, which stay as they are; `seed` says what is hashed
        where."""
        self.keys = [f"{seed}-{i}" for i in range(len(self.replicas))]
        self.router = make_router(self)

    def seen(self) -> Mapping[str, Seen]:
        return {
            str(number): Seen(self.slots, self.replicas[number].store.resident)
            for number in self.alive
        }

    def lose(self, number: int) -> None:
        """Take a replica away, as when its machine is lost. Its callers hear of it at once."""
        self.alive.remove(number)
        self.router.changed()
        self.active[number] = 0
        for asked in self.replicas[number].stop():
            asked.on_lost()

    def _loaded(self) -> None:
        self.loaded_s.append(self.events.now)

    def towards(self, then: Callable[[], object]) -> None:
        """Let a call come from the client, through Envoy, if they share the replicas' machine."""
        self._pass(self._ways, lambda process: process.call, then)

    def back(self, then: Callable[[], object]) -> None:
        """Let a token come to the client."""
        self._pass(self._ways[::-1], lambda process: process.token, then)

    def _pass(
        self,
        ways: Sequence[tuple[Process, Thread]],
        seconds: Callable[[Process], float],
        then: Callable[[], object],
    ) -> None:
        if not ways:
            then()
            return
        process, thread = ways[0]
        thread.start(seconds(process), lambda: self._pass(ways[1:], seconds, then))
