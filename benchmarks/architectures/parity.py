"""Base and adapter rows of one mixed batch, held to PEFT: whole and chunked prefill, a prefix that
is cached, sequences that are preempted."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lora_runtime import (
    BaseModel,
    Engine,
    EngineConfig,
    EngineObserver,
    Generation,
    Request,
    SamplingParams,
    StepStats,
)

from .reference import Reference, difference
from .tiny import VOCAB

_BLOCK_SIZE, _BLOCKS = 16, 22
_BATCH_TOKENS = 80
_SHORT, _LONG = 25, 92
"""Tokens of a prompt: three short ones are one step's, a long one is more than a step takes."""

Row = tuple[str, int, int, int]
"""Adapter, prompt by its seed, its length, tokens to generate."""


def unequal(base: BaseModel, adapters: Mapping[str, Path], reference: Reference) -> str:
    """Say which answers are not PEFT's, "" if all are. Raises LoramuxError for an adapter that is
    refused."""
    names = ("", *adapters)
    gate = _Gate()
    config = EngineConfig(
        max_running=16,
        max_batch_tokens=_BATCH_TOKENS,
        kv_block_size=_BLOCK_SIZE,
        kv_cache_bytes=_BLOCKS * _block_bytes(base),
    )
    kinds = {
        "whole": [(name, 1, _SHORT, 8) for name in names],
        "chunked": [(name, 2, _LONG, 6) for name in names],
        "with a cached prefix": [(name, 2, _LONG, 6) for name in names],
        "preempted": [(name, seed, _SHORT, 50) for name in names for seed in (3, 4)],
    }
    with Engine(base, config) as engine:
        engine.add_observer(gate)
        for name, path in adapters.items():
            engine.load_adapter(path, name)
        for kind, rows in kinds.items():
            preempted = engine.stats().preemptions
            answers = _generate(engine, rows, gate)
            assert gate.mixed, f"{kind}: no step had rows of all"
            if kind == "with a cached prefix":
                assert all(a.choices[0].usage.cached_tokens for a in answers)
            assert (engine.stats().preemptions > preempted) == (kind == "preempted"), kind
            for row, answer in zip(rows, answers, strict=True):
                if problem := _difference(reference, row, answer):
                    return f"{row[0] or 'base'}, {kind}: {problem}"
    return ""


class _Gate(EngineObserver):
    """Gate that holds the engine behind a step, so that what is submitted meanwhile starts together."""

    def __init__(self) -> None:
        self.open, self.reached = threading.Event(), threading.Event()
        self.mixed = False
        """True once a step has had rows of the base and of all adapters."""

    def on_step(self, stats: StepStats) -> None:
        self.mixed |= stats.distinct_adapters == 2 and stats.sequences > 2
        self.reached.set()
        self.open.wait()

    @contextmanager
    def closed(self, engine: Engine) -> Iterator[None]:
        self.open.clear()
        self.reached.clear()
        engine.submit(Request(token_ids=(1,), sampling=SamplingParams(max_new_tokens=1)))
        reached = self.reached.wait(60)
        self.mixed = False
        try:
            assert reached, "a step does not end"
            yield
        finally:
            self.open.set()


def _block_bytes(base: BaseModel) -> int:
    return _BLOCK_SIZE * 4 * sum(heads * (dim + dim_v) for heads, dim, dim_v in base.kv_shapes)


def _prompt(row: Row) -> tuple[int, ...]:
    _, seed, length, _ = row
    return tuple((i * i * 31 + i * 7 * seed + seed) % (VOCAB - 2) for i in range(length))


def _generate(engine: Engine, rows: Iterable[Row], gate: _Gate) -> list[Generation]:
    with gate.closed(engine):
        handles = [
            engine.submit(
                Request(
                    token_ids=_prompt(row),
                    adapter_id=row[0],
                    sampling=SamplingParams(max_new_tokens=row[3], ignore_eos=True, logprobs=0),
                )
            )
            for row in rows
        ]
    return [handle.result() for handle in handles]


def _difference(reference: Reference, row: Row, answer: Generation) -> str:
    choice, prompt = answer.choices[0], _prompt(row)
    expected = reference.logprobs(row[0], [*prompt, *choice.token_ids[:-1]])[len(prompt) - 1 :]
    return difference(expected, choice.token_ids, [entry.logprob for entry in choice.logprobs])
