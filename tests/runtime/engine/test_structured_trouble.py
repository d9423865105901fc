"""Matchers that fail, are slow, or never end: their rows alone are touched."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llguidance import LLMatcher

from lora_runtime import (
    Engine,
    InvalidRequestError,
    StructuredAnswer,
)
from lora_runtime.grammars import masks, row
from lora_runtime.grammars.row import RowGrammar

from ...support.faults import Raise, exception, panic
from .test_structured import FORM, free_rows, opened, outcomes, request


@pytest.fixture(scope="module")
def engine(tiny_base: Path, tiny_adapters: dict[str, Path]) -> Iterator[Engine]:
    with opened(tiny_base, tiny_adapters) as engine:
        yield engine


CULPRIT = StructuredAnswer("regex", "[0-9]{40}")
DIGIT_IDS = [ord(char) - 33 for char in "0123456789"]


def hinder(patch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Act before each mask of a CULPRIT's row behind its third token."""
    fill = RowGrammar._fill

    def hindered(row: RowGrammar, matcher: LLMatcher) -> None:
        row.filled = getattr(row, "filled", 0) + 1  # type: ignore[attr-defined]
        fill(row, matcher)
        allowed = np.unpackbits(row.mask.view(np.uint8), bitorder="little")
        if row.filled > 3 and not row.only_ends and allowed.nonzero()[0].tolist() == DIGIT_IDS:  # type: ignore[attr-defined]
            act()

    patch.setattr(RowGrammar, "_fill", hindered)


@pytest.mark.parametrize("raises", [exception, panic])
def test_a_matcher_that_raises_ends_its_row_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, raises: Raise
) -> None:
    alone = outcomes([*free_rows(engine), engine.submit(request(FORM))])
    hinder(monkeypatch, lambda: raises())
    others = free_rows(engine)
    culprit = engine.submit(request(CULPRIT))
    others.append(engine.submit(request(FORM)))
    with pytest.raises(InvalidRequestError, match=r"structured: .*injected"):
        culprit.result()
    assert outcomes(others) == alone
    assert engine.healthy


def test_a_slow_mask_delays_its_row_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = outcomes([*free_rows(engine), engine.submit(request(CULPRIT))])
    gate = {"open": False, "waited": 0}

    def wait() -> None:
        gate["waited"] += 1
        while not gate["open"]:
            time.sleep(0.001)

    hinder(monkeypatch, wait)
    culprit = engine.submit(request(CULPRIT))
    others = free_rows(engine)
    assert outcomes(others) == alone[:-1]
    assert gate["waited"] == 1  # it is still there
    gate["open"] = True
    assert outcomes([culprit]) == alone[-1:]


def test_a_mask_that_never_comes_ends_its_row(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = outcomes([engine.submit(request(FORM))])
    monkeypatch.setattr(masks, "STUCK_S", 0.2)
    done: list[bool] = []

    def wait() -> None:
        while not done:
            time.sleep(0.001)

    hinder(monkeypatch, wait)
    with pytest.raises(InvalidRequestError, match=r"structured: .*takes longer"):
        engine.generate(request(CULPRIT))
    assert outcomes([engine.submit(request(FORM))]) == alone
    done.append(True)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_form_that_wants_what_may_not_come_yet(engine: Engine, temperature: float) -> None:
    """Its first token is one that ends the answer, which min_tokens puts off."""
    params: dict[str, Any] = {
        "stop_token_ids": tuple(DIGIT_IDS),
        "min_tokens": 2,
        "temperature": temperature,
    }
    with pytest.raises(InvalidRequestError, match=r"structured: .*min_tokens"):
        engine.generate(request(CULPRIT, **params))
    assert engine.generate(request(CULPRIT, temperature=temperature)).text


def test_what_ended_rows_have_is_freed_beside_the_engine(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed: queue.Queue[str] = queue.Queue()
    free = row.free

    def noted(matcher: LLMatcher) -> None:
        free(matcher)
        freed.put(threading.current_thread().name)

    monkeypatch.setattr(row, "free", noted)
    engine.submit(request(FORM)).result()
    assert freed.get(timeout=60) == "loramux-masks"
