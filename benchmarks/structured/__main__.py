"""Milliseconds of a decode step of 32 rows, of which some are held to a JSON Schema."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median, quantiles

from lora_runtime import Engine, EngineConfig, Request, SamplingParams, StructuredAnswer

from ..common.paths import MODEL
from ..common.recorder import Recorder

ROWS = 32
HELD = (0, 1, 8, 32)
SCHEMA = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
        "required": ["name", "count"],
        "additionalProperties": False,
    },
    "minItems": 100,
}
FORM = StructuredAnswer("json_schema", json.dumps(SCHEMA))
PROMPT = "A list of things in a kitchen, as JSON:\n"


def main() -> None:
    args = _parse()
    recorder = Recorder()
    with Engine(args.base, EngineConfig(max_running=ROWS)) as engine:
        engine.add_observer(recorder)
        _steps(engine, recorder, ROWS, 0.0, 4)
        for temperature in (0.0, 0.8):
            found: dict[int, list[float]] = {held: [] for held in HELD}
            for _ in range(args.repeats):  # in turn: a slow minute hits all of them
                for held in HELD:
                    found[held] += _steps(engine, recorder, held, temperature, args.tokens)
            for held in HELD:
                print(_line(temperature, held, found[held], found[0]), flush=True)


def _steps(
    engine: Engine, recorder: Recorder, held: int, temperature: float, tokens: int
) -> list[float]:
    """Milliseconds of the steps in which all rows decode."""
    recorder.clear()
    handles = [
        engine.submit(
            Request(
                prompt=f"{row}. {PROMPT}",
                sampling=SamplingParams(
                    max_new_tokens=tokens,
                    temperature=temperature,
                    seed=row,
                    ignore_eos=True,
                    structured=FORM if row < held else None,
                ),
            )
        )
        for row in range(ROWS)
    ]
    for handle in handles:
        handle.result()
    return [
        step.duration_s * 1e3
        for step in recorder.steps
        if step.sequences == step.tokens == ROWS  # one that sits out makes it one less
    ]


def _line(temperature: float, held: int, steps: list[float], free: list[float]) -> str:
    middle, late = median(steps), quantiles(steps, n=100)[98]
    more = middle - median(free)
    return (
        f"temperature {temperature:3}  {held:2} of {ROWS} rows held: {middle:6.2f} ms/step "
        f"({more:+5.2f}), p99 {late:6.2f}, {len(steps)} steps"
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.structured", description=__doc__)
    parser.add_argument("--base", type=Path, default=MODEL)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
