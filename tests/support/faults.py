"""Faults put into the stages of a step, for one request alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import pytest
from tokenizers import decoders

from lora_runtime import Engine
from lora_runtime.adapters.store.version import AdapterVersion
from lora_runtime.engine import compute, loop
from lora_runtime.requests.sequence import LiveRequest, Sequence

from .engines import runner_of

CULPRIT = "culprit"
TEMPERATURE = 1.5
"""The culprit's alone: all that the kernels that sample know of a row."""


class PanicError(BaseException):
    """No Exception, as a Rust library's."""


def exception() -> NoReturn:
    raise RuntimeError("injected")


def panic() -> NoReturn:
    raise PanicError("injected")


def rust_panic() -> NoReturn:
    decoders.Strip("a", 2, 2).decode(["a"])
    raise AssertionError("it does not panic any more")


Raise = Callable[[], NoReturn]
Fault = Callable[[Engine, LiveRequest, pytest.MonkeyPatch, Raise], None]


def is_due(seq: Sequence) -> bool:
    """Whether it is the culprit's, and has come far enough to run beside the others."""
    return seq.handle.request_id == CULPRIT and seq.num_generated >= 3


def _before(
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    sequences: Callable[..., Iterable[Sequence]],
    raises: Raise,
) -> None:
    """Let a call raise in which a culprit is due."""
    whole = getattr(owner, name)

    def call(*args: Any, **named: Any) -> Any:
        if any(map(is_due, sequences(*args))):
            raises()
        return whole(*args, **named)

    monkeypatch.setattr(owner, name, call)


def in_schedule(e: Engine, live: LiveRequest, patch: pytest.MonkeyPatch, raises: Raise) -> None:
    _before(patch, e._scheduler, "_grow", lambda seq, *_: [seq], raises)


def in_plan(e: Engine, live: LiveRequest, patch: pytest.MonkeyPatch, raises: Raise) -> None:
    planner = e._loop._computer._planner
    _before(patch, planner, "plan", lambda rows: [r.sequence for r in rows], raises)


def after_plan(e: Engine, live: LiveRequest, patch: pytest.MonkeyPatch, raises: Raise) -> None:
    """When the planner has already advanced the batch that it remembers."""
    planner = e._loop._computer._planner
    plan = planner.plan

    def call(rows: Any) -> Any:
        batch = plan(rows)
        if any(is_due(r.sequence) for r in rows):
            raises()
        return batch

    patch.setattr(planner, "plan", call)


def in_forward(e: Engine, live: LiveRequest, patch: pytest.MonkeyPatch, raises: Raise) -> None:
    _before(patch, runner_of(e), "forward", lambda batch: batch.sampling, raises)


def after_forward(e: Engine, live: LiveRequest, patch: pytest.MonkeyPatch, raises: Raise) -> None:
    """When the step's KV is written."""
    runner: Any = runner_of(e)
    forward = runner.forward

    def call(batch: Any) -> Any:
        output = forward(batch)
        if any(map(is_due, batch.sampling)):
            raises()
        return output

    patch.setattr(runner, "forward", call)


def in_publish(e: Engine, live: LiveRequest, patch: pytest.MonkeyPatch, raises: Raise) -> None:
    _before(patch, e._scheduler, "publish_blocks", lambda seq: [seq], raises)


def in_sample(e: Engine, live: LiveRequest, patch: pytest.MonkeyPatch, raises: Raise) -> None:
    _before(patch, compute, "sample", lambda output, sequences, *_: sequences, raises)


def in_sample_rows(e: Engine, live: LiveRequest, patch: pytest.MonkeyPatch, raises: Raise) -> None:
    """When all rows of the step have drawn from their streams."""
    sample_rows = e.base.sample_rows

    def call(rows: Any) -> Any:
        if any(row.temperature == TEMPERATURE for row in rows):
            raises()
        return sample_rows(rows)

    patch.setattr(e.base, "sample_rows", call)


def in_charge(e: Engine, live: LiveRequest, patch: pytest.MonkeyPatch, raises: Raise) -> None:
    _before(patch, e._loop, "_charge", lambda seq, live: [seq], raises)


def in_accept(e: Engine, live: LiveRequest, patch: pytest.MonkeyPatch, raises: Raise) -> None:
    _before(patch, loop, "accept_token", lambda seq, sampled: [seq], raises)


def in_decode(e: Engine, live: LiveRequest, patch: pytest.MonkeyPatch, raises: Raise) -> None:
    (seq,) = live.sequences
    patch.setattr(seq.text.detokenizer, "push", lambda token: raises())


def in_stops(e: Engine, live: LiveRequest, patch: pytest.MonkeyPatch, raises: Raise) -> None:
    (seq,) = live.sequences
    patch.setattr(seq.text.stops, "push", lambda *args: raises())


def in_push(e: Engine, live: LiveRequest, patch: pytest.MonkeyPatch, raises: Raise) -> None:
    patch.setattr(live.handle, "push", lambda *_: raises())


def in_flush(e: Engine, live: LiveRequest, patch: pytest.MonkeyPatch, raises: Raise) -> None:
    """At its last token."""
    (seq,) = live.sequences
    patch.setattr(seq.text.detokenizer, "flush", lambda: raises())


def in_fail(e: Engine, live: LiveRequest, patch: pytest.MonkeyPatch, raises: Raise) -> None:
    """When it is told that its step failed."""
    in_forward(e, live, patch, raises)
    fail = live.handle.fail

    def call(error: Exception) -> None:
        fail(error)
        raises()

    patch.setattr(live.handle, "fail", call)


STEP_FAULTS: list[Fault] = [
    in_schedule,
    in_plan,
    after_plan,
    in_forward,
    after_forward,
    in_publish,
    in_sample,
    in_sample_rows,
    in_charge,
    in_accept,
    in_decode,
    in_stops,
    in_push,
    in_flush,
    in_fail,
]


def break_version(
    engine: Engine, patch: pytest.MonkeyPatch, version: AdapterVersion, raises: Raise = exception
) -> None:
    """Every step with it raises from now on."""
    runner: Any = runner_of(engine)
    forward = runner.forward

    def call(batch: Any) -> Any:
        if any(s.adapter is version.weights for s in batch.segments):
            raises()
        return forward(batch)

    patch.setattr(runner, "forward", call)
