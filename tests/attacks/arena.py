"""A server, its neighbour, and what both must be while an attack runs and after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import ClassVar

import grpc

from .attackers import Attackers, Outcome
from .memory import MemoryWatch, tree_mb
from .neighbour import Neighbour, Report
from .report import Row, add
from .server import ServerProcess

GAP_S = 0.25
"""Longest wait of the neighbour between two tokens."""
FIRST_TOKEN_S = 5
HEALTH_S = 1
"""What deploy/kubernetes.yaml gives a probe."""
KEPT_MB = 100
"""What an attack may leave in memory."""
SETTLE_S = 10
"""A generous wait for what ends after the attacker's call."""
AT_LEAST_S = 0.15
"""Of watching, however short the attack is: health is asked in it."""
LATE = "late: "
"""Begins what may be the machine's fault."""


@dataclass
class Trial:
    """One try of an attack."""

    outcome: str
    problems: list[str]
    report: Report
    memory: tuple[float, float, float]
    seconds: float


class Arena:
    """Attacks share the server; one that it does not survive is that attack's failure alone.

    One arena has a server at a time: its neighbour keeps a core busy, and would slow the others' attacks.
    """

    _serving: ClassVar[Arena | None] = None

    def __init__(
        self, start: Callable[[], ServerProcess], attackers: Attackers, compared: str = "bits"
    ) -> None:
        self._start, self.attackers, self._compared = start, attackers, compared
        self._server: ServerProcess | None = None
        self._neighbour: Neighbour | None = None

    @property
    def server(self) -> ServerProcess:
        """A server that serves, with a neighbour that knows its output."""
        if self._server is None:
            Arena.end_any()
            Arena._serving = self
            try:
                self._server = self._start()
                self._server.wait_until_serving()
                self._neighbour = Neighbour(self._server, self._compared)
                self._neighbour.wait_until_known()
            except BaseException:
                self.end()
                raise
        return self._server

    @staticmethod
    def end_any() -> None:
        """End the server that runs, whichever arena's it is."""
        if Arena._serving:
            Arena._serving.end()

    def end(self) -> None:
        if Arena._serving is self:
            Arena._serving = None
        if self._neighbour:
            self._neighbour.end()
        if self._server:
            self._server.kill()
        self._server = self._neighbour = None

    def withstand(self, name: str, attack: Callable[[ServerProcess], str]) -> None:
        """Try the attack, which says how it ended and fails for a wrong answer, and check the rest.

        A machine that others use too can stop for longer than the limit: it is tried twice.
        """
        trial = self._try(attack)
        if trial.problems and all(p.startswith(LATE) for p in trial.problems):
            trial = self._try(attack)
        before, peak, after = trial.memory
        report, problems = trial.report, "; ".join(trial.problems)
        add(
            Row(
                name,
                round(report.gap_s * 1e3),
                round(report.first_token_s * 1e3),
                round(report.health_s * 1e3),
                round(before),
                round(peak),
                round(after),
                round(trial.seconds, 1),
                problems or trial.outcome,
                not problems,
            )
        )
        if problems:
            words = self._server.last_words() if self._server else ""
            self.end()  # the next attack is not to meet what is left of this one
            raise AssertionError(f"{name}: {problems}\nthe attacker: {trial.outcome}\n{words}")

    def _try(self, attack: Callable[[ServerProcess], str]) -> Trial:
        server, neighbour = self.server, self._neighbour
        assert neighbour
        problems = []
        outcome = ""
        with MemoryWatch(server.pid) as memory:
            began = time.monotonic()
            try:
                outcome = attack(server)
            except AssertionError as error:
                problems.append(str(error).partition("\n")[0])
            except (grpc.RpcError, TimeoutError) as error:
                problems.append(f"the attack: {error!r}"[:200])
            time.sleep(max(0.0, began + AT_LEAST_S - time.monotonic()))
            seconds = time.monotonic() - began
            kept = settled(lambda: tree_mb(server.pid) - memory.before <= KEPT_MB)
            idle = settled(lambda: is_idle(server))
            after = tree_mb(server.pid)
        report = neighbour.report(began)
        problems += _problems(server, report)
        if not kept:
            problems.append(f"memory: {after - memory.before:.0f} MB stay")
        if not idle:
            problems.append("sequences stay")
        return Trial(outcome, problems, report, (memory.before, memory.peak, after), seconds)


def _problems(server: ServerProcess, report: Report) -> list[str]:
    problems = []
    if not server.is_alive():
        problems.append(f"the server has ended with {server.process.poll()}")
    if report.wrong:
        problems.append(f"output: {report.wrong[0]}")
    if report.errors:
        problems.append(f"neighbour: {report.errors[0]}")
    if not report.tokens:
        problems.append("neighbour: no token")
    if report.unhealthy:
        problems.append(f"health: {', '.join(report.unhealthy)}")
    if report.health_s > HEALTH_S:
        problems.append(f"{LATE}health's answer took {report.health_s:.2f} s")
    if report.first_token_s > FIRST_TOKEN_S:
        problems.append(f"{LATE}first token after {report.first_token_s:.1f} s")
    if report.gap_s > GAP_S:
        problems.append(f"{LATE}gap of {report.gap_s * 1e3:.0f} ms")
    return problems


def settled(condition: Callable[[], bool]) -> bool:
    """Whether it comes about in a generous time."""
    end = time.monotonic() + SETTLE_S
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def is_idle(server: ServerProcess) -> bool:
    """Nothing runs, waits or is held but for the neighbour's two streams."""
    if not server.is_alive():
        return True  # said already
    try:
        load = server.load()
    except grpc.RpcError:
        return False
    return load.running <= 2 and load.waiting == 0 and load.leases <= 1


def expect(outcomes: Collection[Outcome], *allowed: str, reason: str = "") -> str:
    """Fail unless all ended so; what they got, in a few words."""
    for one in outcomes:
        assert one.code in allowed, f"{one.code} instead of {' or '.join(allowed)}: {one.details}"
        assert not reason or one.reason == reason, (
            f"reason {one.reason!r}, not {reason!r}: {one.details}"
        )
    counts = {
        code: sum(o.code == code for o in outcomes) for code in sorted({o.code for o in outcomes})
    }
    details = next((o.details for o in outcomes if o.details), "")
    return f"{', '.join(f'{n} {code}' for code, n in counts.items())} {details}".strip()
