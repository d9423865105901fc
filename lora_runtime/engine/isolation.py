"""Who is at fault when a step raises: its rows are halved, by adapter and then by row, until those
that raise alone are left."""

from __future__ import annotations

import logging
from collections.abc import Callable
from collections.abc import Sequence as Seq

from ..adapters.store.version import AdapterVersion
from ..errors import EngineFailedError
from ..requests.sequence import Sequence
from ..scheduling.batch import ScheduledRow

log = logging.getLogger(__name__)


def isolate(
    rows: Seq[ScheduledRow],
    run: Callable[[Seq[ScheduledRow]], None],
    fault_of: Callable[[AdapterVersion, Sequence], BaseException | None],
) -> tuple[list[tuple[Sequence, BaseException]], dict[AdapterVersion, BaseException]]:
    """Run all of `rows` that can be run, after a step of them raised.

    Gives the sequences that cannot, and the adapters that are why: those that `fault_of` says a row
    of nobody's cannot run with either. That ends the search among an adapter's rows. Each row runs
    as often as the rows can be halved, so that the whole takes few steps' time. `run` changes
    nothing when it raises; EngineFailedError is raised on.
    """
    failed: list[tuple[Sequence, BaseException]] = []
    faults: dict[AdapterVersion, BaseException] = {}
    parts = _halves(rows)[::-1]
    while parts:
        part = []
        for row in parts.pop():
            fault = next((faults[v] for v in row.sequence.versions if v in faults), None)
            if fault is None:
                part.append(row)
            else:
                failed.append((row.sequence, fault))
        if not part:
            continue
        try:
            run(part)
        except EngineFailedError:
            raise
        except BaseException as error:
            if len(part) > 1:
                parts += _halves(part)[::-1]
                continue
            log.exception("a sequence's step raises alone")
            # Its frames hold what the step had made: not while others run.
            failed.append((part[0].sequence, error.with_traceback(None)))
        else:
            continue
        seq = part[0].sequence
        for version in seq.versions:
            if (fault := fault_of(version, seq)) is not None:
                faults[version] = fault
    return failed, faults


def _halves(rows: Seq[ScheduledRow]) -> list[Seq[ScheduledRow]]:
    """Two parts, cut where another adapter begins if there are several; one row stays one part."""
    if len(rows) == 1:
        return [rows]
    rows = sorted(rows, key=lambda row: row.sequence.kv_version)
    keys = [row.sequence.kv_version for row in rows]
    middle = len(rows) // 2
    borders = [i for i in range(1, len(rows)) if keys[i - 1] != keys[i]]
    cut = min(borders, key=lambda i: abs(i - middle), default=middle)
    return [rows[:cut], rows[cut:]]
