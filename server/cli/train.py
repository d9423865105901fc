"""Command `loramux train`."""

from __future__ import annotations

import inspect
import os
import signal
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from loramux_client import CallError

from lora_runtime import BaseModelError, TrainingError

from .common import fail, reach, reach_parameters, set_parameters
from .progress import Progress
from .publish import Publication

if TYPE_CHECKING:
    from lora_runtime.training import StepReport, TrainConfig, TrainResult

_DATA, _ADAPTER, _TRAINING, _RUN, _PUBLISH = "Data", "Adapter", "Training", "Run", "Publish"
_EXCLUSIVE = (("targets", "target_regex"), ("rank", "budget"), ("eval_fraction", "eval_data"))


def train(
    context: typer.Context,
    base: Annotated[Path, typer.Option(help="The base's directory.")],
    data: Annotated[
        Path,
        typer.Option(
            help="JSONL of {prompt, completion} or {messages} rows.", rich_help_panel=_DATA
        ),
    ],
    out: Annotated[Path, typer.Option(help="Directory of the adapter.")],
    eval_data: Annotated[
        Path | None,
        typer.Option(
            help="JSONL for evaluation; default: a part of --data.", rich_help_panel=_DATA
        ),
    ] = None,
    eval_fraction: Annotated[
        float, typer.Option(help="Part of --data that is held out; 0: none.", rich_help_panel=_DATA)
    ] = 0.1,
    max_length: Annotated[
        int, typer.Option(help="Tokens per row; 0: the base's context.", rich_help_panel=_DATA)
    ] = 0,
    long_rows: Annotated[
        str, typer.Option(help="refuse, cut or skip longer rows.", rich_help_panel=_DATA)
    ] = "refuse",
    init: Annotated[
        str,
        typer.Option(
            help="A (A random, B zero), B (B random, A zero), gaussian, orthogonal, pissa, pissa_niter_N, olora.",
            rich_help_panel=_ADAPTER,
        ),
    ] = "A",
    targets: Annotated[
        str,
        typer.Option(help="Modules, with commas between, or all-linear.", rich_help_panel=_ADAPTER),
    ] = "q_proj,v_proj",
    target_regex: Annotated[
        str,
        typer.Option(
            help="Regular expression of whole module names, instead of --targets.",
            rich_help_panel=_ADAPTER,
        ),
    ] = "",
    rank: Annotated[int, typer.Option(rich_help_panel=_ADAPTER)] = 8,
    alpha: Annotated[
        float | None, typer.Option(help="Default: twice the rank.", rich_help_panel=_ADAPTER)
    ] = None,
    rslora: Annotated[
        bool,
        typer.Option("--rslora", help="Scale by alpha / sqrt(rank).", rich_help_panel=_ADAPTER),
    ] = False,
    dora: Annotated[
        bool, typer.Option("--dora", help="Train magnitudes too.", rich_help_panel=_ADAPTER)
    ] = False,
    dropout: Annotated[float, typer.Option(help="Of A's inputs.", rich_help_panel=_ADAPTER)] = 0.0,
    rank_pattern: Annotated[
        list[str] | None,
        typer.Option(
            help="MODULE=RANK, repeatable; MODULE is a name's end or a pattern, the first that matches counts.",
            rich_help_panel=_ADAPTER,
        ),
    ] = None,
    alpha_pattern: Annotated[
        list[str] | None, typer.Option(help="MODULE=ALPHA, repeatable.", rich_help_panel=_ADAPTER)
    ] = None,
    budget: Annotated[
        int,
        typer.Option(
            help="Parameters of A and B together: picks the ranks.", rich_help_panel=_ADAPTER
        ),
    ] = 0,
    learning_rate: Annotated[float, typer.Option(rich_help_panel=_TRAINING)] = 2e-4,
    schedule: Annotated[
        str, typer.Option(help="constant, linear or cosine.", rich_help_panel=_TRAINING)
    ] = "cosine",
    warmup: Annotated[
        float, typer.Option(help="Part of the steps.", rich_help_panel=_TRAINING)
    ] = 0.05,
    epochs: Annotated[int, typer.Option(rich_help_panel=_TRAINING)] = 3,
    max_steps: Annotated[
        int, typer.Option(help="Instead of --epochs.", rich_help_panel=_TRAINING)
    ] = 0,
    batch_size: Annotated[
        int, typer.Option(help="Rows per forward.", rich_help_panel=_TRAINING)
    ] = 8,
    grad_accumulation: Annotated[
        int, typer.Option(help="Forwards per step.", rich_help_panel=_TRAINING)
    ] = 1,
    weight_decay: Annotated[float, typer.Option(rich_help_panel=_TRAINING)] = 0.01,
    clip_norm: Annotated[
        float,
        typer.Option(
            help="Largest norm of all gradients; 0: not clipped.", rich_help_panel=_TRAINING
        ),
    ] = 1.0,
    seed: Annotated[int, typer.Option(rich_help_panel=_TRAINING)] = 0,
    eval_every: Annotated[
        int,
        typer.Option(help="Steps between evaluations; 0: once per epoch.", rich_help_panel=_RUN),
    ] = 0,
    patience: Annotated[
        int,
        typer.Option(
            help="Evaluations without a better loss before it stops; the best weights are kept. 0: never.",
            rich_help_panel=_RUN,
        ),
    ] = 0,
    save_every: Annotated[
        int, typer.Option(help="Steps between checkpoints; 0: none.", rich_help_panel=_RUN)
    ] = 100,
    resume: Annotated[
        str,
        typer.Option(
            help="auto: go on from the checkpoint in --out where there is one.",
            rich_help_panel=_RUN,
        ),
    ] = "never",
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Remove what an earlier run left in --out.", rich_help_panel=_RUN
        ),
    ] = False,
    dtype: Annotated[
        str,
        typer.Option(
            help="Of the base: auto, float32 or bfloat16; A and B are float32.",
            rich_help_panel=_RUN,
        ),
    ] = "auto",
    save_dtype: Annotated[
        str, typer.Option(help="Of the adapter's file: float32 or bfloat16.", rich_help_panel=_RUN)
    ] = "float32",
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=_RUN)
    ] = "auto",
    threads: Annotated[
        int,
        typer.Option(
            help="CPU threads; 0: as many as torch takes by itself.", rich_help_panel=_RUN
        ),
    ] = 0,
    base_name: Annotated[
        str,
        typer.Option(
            help="What the adapter calls its base; default: the directory's name.",
            rich_help_panel=_RUN,
        ),
    ] = "",
    description: Annotated[
        str, typer.Option(help="A sentence for its card.", rich_help_panel=_RUN)
    ] = "",
    publish: Annotated[
        str,
        typer.Option(
            help="HOST:PORT of a running server that is to serve it.", rich_help_panel=_PUBLISH
        ),
    ] = "",
    name: Annotated[
        str,
        typer.Option(
            help="Its adapter id there; default: the name of --out.", rich_help_panel=_PUBLISH
        ),
    ] = "",
    publish_path: Annotated[
        str,
        typer.Option(
            help="--out as the server sees it, below one of its adapter roots.",
            rich_help_panel=_PUBLISH,
        ),
    ] = "",
    **connection: Any,
) -> None:
    """Train a LoRA adapter on a JSONL file, and publish it."""
    values = dict(locals())  # the options by the names of TrainConfig's fields
    for key in ("context", "publish", "name", "publish_path", "connection", "target_regex"):
        del values[key]
    for one, other in _EXCLUSIVE:
        if _is_given(context, one) and _is_given(context, other):
            fail(f"{_flag(one)} and {_flag(other)} exclude each other", 2)
    values["targets"] = target_regex or _targets(targets)
    values["rank_pattern"] = _pairs("--rank-pattern", rank_pattern, int)
    values["alpha_pattern"] = _pairs("--alpha-pattern", alpha_pattern, float)
    config = _config(values)
    if not publish and (name or publish_path):
        fail("--name and --publish-path need --publish", 2)
    try:
        if not publish:
            _run(config)
            return
        path = publish_path or str(out.resolve())
        with reach(target=publish, **connection) as client:
            publication = Publication(client, name or out.resolve().name, path)
            publication.check(base)
            _publish(publication, _run(config))
    except CallError as error:
        fail(str(error), 1)
    except KeyboardInterrupt:
        fail("cancelled", 130)


def _publish(publication: Publication, result: TrainResult) -> None:
    publication.load()
    if result.held_out is not None:
        publication.compare(result.held_out.prompt)
    else:
        typer.echo("no row was held out: nothing to compare")


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _config(values: dict[str, Any]) -> TrainConfig:
    from lora_runtime.training import TrainConfig  # torch: only where it is needed

    try:
        return TrainConfig(**values)
    except ValueError as error:
        fail(str(error), 2)


def _run(config: TrainConfig) -> TrainResult:
    from transformers.utils import logging

    from lora_runtime.training import train as run

    logging.disable_progress_bar()
    # Those are meant for PEFT's authors.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    stop = _Signals()

    def on_step(report: StepReport) -> None:
        progress.show(report)
        stop.check()

    try:
        with Progress() as progress:
            result = run(config, on_step=on_step, on_model=stop.watch, on_note=progress.note)
    except (TrainingError, BaseModelError) as error:
        fail(str(error), 1)
    except _Stopped:
        fail("stopped behind a checkpoint; --resume auto goes on", stop.exit_code)
    except KeyboardInterrupt:
        fail(
            "stopped at once: nothing is saved since the last checkpoint, if there is one",
            stop.exit_code,
        )
    finally:
        stop.restore()
    _report(result)
    if stop.is_met:
        fail(
            "stopped behind the last step: the adapter is written; --resume auto --publish publishes it",
            stop.exit_code,
        )
    return result


class _Stopped(KeyboardInterrupt):
    """Interrupt raised out of `on_step`: training leaves a checkpoint before it comes here."""


class _Signals:
    """Signals that end the run: SIGINT and SIGTERM behind a step; a second one at once."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._met = 0

    @property
    def exit_code(self) -> int:
        return 128 + (self._met or signal.SIGINT)

    @property
    def is_met(self) -> bool:
        return bool(self._met)

    def watch(self, _model: object) -> None:
        """Watch from the first step on: before it there is nothing to save."""
        try:
            self._before = {
                s: signal.signal(s, self._meet) for s in (signal.SIGINT, signal.SIGTERM)
            }
        except ValueError:  # not the main thread: signals are someone else's
            self._before = {}

    def check(self) -> None:
        if self._met:
            raise _Stopped

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _meet(self, number: int, _frame: object) -> None:
        self._met = number
        self.restore()
        # Not through sys.stderr: the signal may have met it in the middle of a write.
        with suppress(OSError):
            os.write(
                2, b"\nstopping behind this step, with a checkpoint; once more stops at once\n"
            )


def _report(result: TrainResult) -> None:
    held_out = f", {result.eval_loss:.4f} held out" if result.eval_loss is not None else ""
    typer.echo(
        f"{result.adapter}: {result.steps} steps ({result.stopped}), loss {result.losses[-1][1]:.4f}{held_out}, "
        f"{result.tokens_per_s:.0f} tokens/s"
    )


def _targets(text: str) -> tuple[str, ...] | str:
    return (
        text
        if text == "all-linear"
        else tuple(part.strip() for part in text.split(",") if part.strip())
    )


def _pairs(flag: str, texts: list[str] | None, kind: Callable[[str], Any]) -> dict[str, Any]:
    """Parse MODULE=VALUE texts in their order: the first key that matches a module counts."""
    found: dict[str, Any] = {}
    for key, value in (_pair(flag, text, kind) for text in texts or []):
        if key in found:
            fail(f"{flag} names {key!r} twice", 2)
        found[key] = value
    return found


def _pair(flag: str, text: str, kind: Callable[[str], Any]) -> tuple[str, Any]:
    key, equals, value = text.rpartition("=")
    try:
        if not key or not equals:
            raise ValueError
        return key, kind(value)
    except ValueError:
        fail(f"{flag} {text!r} is not MODULE={'RANK' if kind is int else 'ALPHA'}", 2)


def _parameters() -> list[inspect.Parameter]:
    """Options of the command itself, and those that reach a server, without its address
    (--publish)."""
    own = [
        p
        for p in inspect.signature(train, eval_str=True).parameters.values()
        if p.kind is not p.VAR_KEYWORD
    ]
    return [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for p in (*own, *(p for p in reach_parameters() if p.name != "target"))
    ]


set_parameters(train, _parameters())
