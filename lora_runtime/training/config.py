"""Settings and results of one training run."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .data import Row

INITS = ("A", "B", "gaussian", "orthogonal", "pissa", "pissa_niter_N", "olora")
_NEEDS_DATA = "it looks at data before training"
_NOT_OFFERED = dict.fromkeys(("eva", "corda", "lora_ga"), _NEEDS_DATA) | {
    "loftq": "it makes up for the error of a quantized base; over a whole one it would train against a base that no "
    "server has, and the difference is not of low rank"
}
_CHOICES = {
    "schedule": ("constant", "linear", "cosine"),
    "long_rows": ("refuse", "cut", "skip"),
    "resume": ("never", "auto"),
    "dtype": ("auto", "float32", "bfloat16"),
    "save_dtype": ("float32", "bfloat16"),
}
_AT_LEAST_ONE = ("rank", "epochs", "batch_size", "grad_accumulation")
_NOT_NEGATIVE = (
    "budget",
    "max_steps",
    "max_length",
    "eval_every",
    "patience",
    "save_every",
    "threads",
    "weight_decay",
    "clip_norm",
    "seed",
)
_FRACTIONS = ("eval_fraction", "warmup", "dropout")
_AT_MOST = {"seed": 2**63 - 1, "threads": 1024, "learning_rate": 10}
_TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "int": (lambda v: type(v) is int, "a whole number"),
    "float": (lambda v: type(v) in (int, float) and math.isfinite(v), "a finite number"),
    "float | None": (lambda v: v is None or _TYPES["float"][0](v), "a finite number"),
    "bool": (lambda v: type(v) is bool, "true or false"),
}
_INCIDENTAL = {
    "base",
    "data",
    "eval_data",
    "out",
    "resume",
    "overwrite",
    "save_every",
    "save_dtype",
    "threads",
    "base_name",
    "description",
}


@dataclass(frozen=True)
class TrainConfig:
    """One run. Raises ValueError for values that could never train."""

    base: Path
    """Directory of the base, as for Engine."""
    data: Path
    """JSONL: rows of {"prompt", "completion"} or {"messages"}; see training.data."""
    out: Path
    """Directory of the adapter, and of the run's checkpoint, metrics and plot."""
    eval_data: Path | None = None
    """JSONL of its own for evaluation; else `eval_fraction` of `data` is held out."""
    eval_fraction: float = 0.1
    init: str = "A"
    """A: A random, B zero (PEFT's default); B: B random, A zero; or PEFT's gaussian, orthogonal,
    pissa, pissa_niter_N, olora."""
    targets: tuple[str, ...] | str = ("q_proj", "v_proj")
    """Ends of module names; a string is a regular expression for whole names, or `all-linear`."""
    rank: int = 8
    alpha: float | None = None
    """LoRA's alpha. None: twice the rank of each module."""
    rslora: bool = False
    dora: bool = False
    dropout: float = 0.0
    """Rate at which inputs of A are dropped."""
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    budget: int = 0
    """Parameters of A and B together, spread over the targets instead of `rank`; see
    training.targets."""
    learning_rate: float = 2e-4
    schedule: str = "cosine"
    """constant, linear or cosine: the way to 0 after the warmup."""
    warmup: float = 0.05
    """Part of the steps in which the learning rate rises."""
    epochs: int = 3
    max_steps: int = 0
    """Steps in all, whatever `epochs` says; 0: as many as the epochs have."""
    batch_size: int = 8
    """Rows per forward."""
    grad_accumulation: int = 1
    """Forwards per step; the loss is the mean over all their tokens, as in one large batch."""
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    """Largest norm of all gradients together; 0: not clipped."""
    max_length: int = 0
    """Tokens per row; 0: the base's context."""
    long_rows: str = "refuse"
    """refuse, cut (keep the first `max_length` tokens) or skip rows that are longer."""
    seed: int = 0
    eval_every: int = 0
    """Steps between evaluations; 0: once per epoch. There is one before the first step and one
    after the last."""
    patience: int = 0
    """Evaluations without a better loss before the run stops; the best weights are kept. 0: run to
    the end."""
    save_every: int = 100
    """Steps between checkpoints; 0: none."""
    resume: str = "never"
    """auto: go on from the checkpoint in `out` where there is one; never: refuse an `out` that is
    in use."""
    overwrite: bool = False
    """Remove what an earlier run left in `out`."""
    dtype: str = "auto"
    """The base's dtype: auto is bfloat16 where the device has it; A and B are always float32."""
    save_dtype: str = "float32"
    """The dtype in the adapter's file."""
    device: str = "auto"
    threads: int = 0
    """CPU threads; 0 leaves torch's number."""
    base_name: str = ""
    """What the adapter's config calls the base; empty: its directory's name."""
    description: str = ""
    """A sentence for the card."""

    def __post_init__(self) -> None:
        for name in ("base", "data", "out", "eval_data"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else Path(value))
        for f in dataclasses.fields(self):
            good, words = _TYPES.get(str(f.type), (lambda _: True, ""))
            if not good(getattr(self, f.name)):
                raise ValueError(f"{f.name} must be {words}, got {getattr(self, f.name)!r}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}"
                )
        for names, good, words in (
            (_AT_LEAST_ONE, lambda v: v >= 1, "at least 1"),
            (_NOT_NEGATIVE, lambda v: v >= 0, "not negative"),
            (_FRACTIONS, lambda v: 0 <= v < 1, "at least 0 and below 1"),
            (("learning_rate",), lambda v: v > 0, "a positive number"),
        ):
            for name in names:
                if not good(getattr(self, name)):
                    raise ValueError(f"{name} must be {words}, got {getattr(self, name)}")
        for name, most in _AT_MOST.items():
            if getattr(self, name) > most:
                raise ValueError(f"{name} must be at most {most}, got {getattr(self, name)}")
        self._check_adapter()
        if self.resume == "auto" and self.overwrite:
            raise ValueError("resume and overwrite exclude each other")
        if self.max_length == 1:
            raise ValueError("max_length must leave room for a prompt and a completion: at least 2")

    def _check_adapter(self) -> None:
        check_init(self.init)
        if not self.targets:
            raise ValueError("targets is empty")
        if isinstance(self.targets, str):
            _check_pattern("targets", self.targets)
        for name, kind in (("rank_pattern", "int"), ("alpha_pattern", "float")):
            good, words = _TYPES[kind]
            for key, value in getattr(self, name).items():
                _check_pattern(name, key)
                if not good(value):
                    raise ValueError(f"{name}: {key!r} must be {words}, got {value!r}")
                if value <= 0:
                    raise ValueError(f"{name}: {key!r} must be positive, got {value}")
        if self.alpha is not None and not self.alpha > 0:
            raise ValueError(f"alpha must be positive, got {self.alpha}")
        if self.budget and self.rank_pattern:
            raise ValueError(
                "budget and rank_pattern exclude each other: the budget chooses the ranks"
            )

    def settings(self) -> dict[str, Any]:
        """What decides about the trained weights, as JSON; a run can only go on with the same."""
        fields = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in _INCIDENTAL
        }
        targets = self.targets if isinstance(self.targets, str) else list(self.targets)
        return fields | {
            "targets": targets,
            "rank_pattern": dict(self.rank_pattern),
            "alpha_pattern": dict(self.alpha_pattern),
        }


def check_init(init: str) -> None:
    """Raises ValueError for a start that is not offered."""
    name = re.sub(r"^pissa_niter_\d+$", "pissa_niter_N", init)
    if name in _NOT_OFFERED:
        raise ValueError(f"init {init!r} is not supported: {_NOT_OFFERED[name]}")
    if name not in INITS or init == "pissa_niter_N":
        raise ValueError(f"init {init!r} is none of {', '.join(INITS)}")


def _check_pattern(name: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{name}: {pattern!r} is not a regular expression: {error}") from error


@dataclass(frozen=True)
class StepReport:
    """One finished step; `step` counts from 1. What `on_step` raises ends the run."""

    step: int
    loss: float
    """Mean over the step's completion tokens, before the update."""
    learning_rate: float
    tokens_per_s: float
    """Prompt and completion tokens, without padding."""
    model: Any
    """The PeftModel after the update."""
    grad_norm: float = 0.0
    """Norm of all gradients together, before clipping."""
    total_steps: int = 0
    eval_loss: float | None = None
    """Loss of the evaluation that followed this step, where one did."""


@dataclass(frozen=True)
class TrainResult:
    """What a run has left behind."""

    adapter: Path
    losses: list[tuple[int, float]]
    """(step, loss) of every step."""
    eval_losses: list[tuple[int, float]]
    """Step 0 is the base with the untrained adapter."""
    steps: int
    stopped: str
    """done, early stop or max steps."""
    tokens_per_s: float
    seconds: float
    rows: int = 0
    """Rows trained on."""
    cut: tuple[int, ...] = ()
    """Lines of `data` that were cut to max_length."""
    skipped: tuple[int, ...] = ()
    """Lines of `data` that were left out as too long."""
    held_out: Row | None = None
    """A row that was not trained on, where there is one."""
    notes: tuple[str, ...] = ()
    """What `on_note` got."""
    weights_step: int = 0
    """The step whose weights the adapter has: an earlier one than `steps` where patience kept the
    best."""

    @property
    def eval_loss(self) -> float | None:
        """The last evaluation of the adapter's weights; None if nothing was held out."""
        return dict(self.eval_losses).get(self.weights_step)
