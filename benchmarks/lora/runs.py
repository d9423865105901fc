"""One Spec trained and judged: what a worker does."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_runtime.training import DivergedError, StepReport, TrainConfig, TrainingError, train
from lora_runtime.training.batches import collate
from lora_runtime.training.guard import FrozenBase
from lora_runtime.training.loop import Loop
from lora_runtime.training.model import add_adapter, load_base

from . import data
from .bottleneck import Bottlenecks
from .evaluate import examples, score
from .features import Probe
from .specs import Spec

_PROBE_ROWS = 8
_PROBE_STEPS = (1, 2, 3, 5, 10, 20, 30, 40)
_DIGITS = 5


@dataclass(frozen=True)
class Place:
    """Where things are: `work` holds data files and adapters, and may be deleted."""

    base: Path
    work: Path
    dtype: str = "bfloat16"
    train_rows: int = data.TRAIN_ROWS
    test_rows: int = data.TEST_ROWS

    def adapter(self, key: str) -> Path:
        return self.work / "adapters" / key.replace(" ", "-").replace(",", "")


def run(spec: Spec, place: Place) -> dict[str, Any]:
    """Train, judge on the held-out rows, and keep the adapter in `place.adapter(key)`; the result
    as JSON."""
    began = time.monotonic()
    watch = _Watch(spec, place)
    diverged = ""
    try:
        (_train_bottlenecks if spec.width else _train_lora)(spec, place, watch)
    except DivergedError as error:
        diverged = str(error)
    except (
        TrainingError
    ) as error:  # weights that are no numbers any more are found when they are written
        if "not finite" not in str(error):
            raise
        diverged = str(error)
    result = {
        "settings": spec.settings(),
        "seconds": round(time.monotonic() - began, 1),
        **watch.result(),
    }
    return result | ({"diverged": diverged} if diverged else {})


class _Watch:
    """Hooks into the training: losses of the steps, feature norms, and the score after the last
    step."""

    def __init__(self, spec: Spec, place: Place) -> None:
        self._spec, self._place = spec, place
        self._probe: Probe | None = None
        self._losses: list[float] = []
        self._result: dict[str, Any] = {}

    def on_model(self, model: Any) -> None:
        # at 22 tokens torch's fused attention takes a sixth of a step longer than plain products
        model.get_base_model().set_attn_implementation("eager")
        self._result["parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        if self._spec.budget:
            lora = model.peft_config["default"]
            self._result["ranks"] = {
                kind: lora.rank_pattern.get(kind, lora.r) for kind in self._spec.targets
            }
        if self._spec.features:
            rows = examples(self._place.base, model, self._spec.task, "test", _PROBE_ROWS)
            batch = collate(rows, model.device)
            del batch["labels"]
            self._probe = Probe(model, probed_modules(model), batch, _PROBE_STEPS)

    def on_step(self, report: StepReport) -> None:
        self._losses.append(round(report.loss, _DIGITS))
        if self._probe is not None:
            self._probe.after(report.step)
        if report.step == self._spec.steps:
            rows = examples(
                self._place.base, report.model, self._spec.task, "test", self._place.test_rows
            )
            result = score(report.model, rows)
            self._result |= {
                "test_loss": round(result.loss, _DIGITS),
                "exact": round(result.exact, _DIGITS),
            }

    def result(self) -> dict[str, Any]:
        found = self._result | {"losses": self._losses}
        return found | ({"features": self._probe.rows} if self._probe is not None else {})


def probed_modules(model: Any) -> list[str]:
    """q and v of the first, a middle and the last layer."""
    count = model.config.num_hidden_layers
    layers = sorted({0, count // 2, count - 1})
    return [f"model.layers.{i}.self_attn.{kind}" for i in layers for kind in ("q_proj", "v_proj")]


def _config(spec: Spec, place: Place) -> TrainConfig:
    base = place.base if not spec.after else _merged_base(spec.after, place)
    return TrainConfig(
        base=base,
        data=place.work / "data" / f"{spec.task}.jsonl",
        out=place.adapter(spec.key),
        eval_fraction=0,
        init=spec.init,
        targets=spec.targets,
        rank=spec.rank or 1,
        budget=spec.budget,
        learning_rate=spec.rate,
        max_steps=spec.steps,
        seed=spec.seed,
        save_every=0,
        dtype=place.dtype,
        threads=1,
        overwrite=True,
        weight_decay=0.0,
    )


def _train_lora(spec: Spec, place: Place, watch: _Watch) -> None:
    train(_config(spec, place), on_model=watch.on_model, on_step=watch.on_step)


def _train_bottlenecks(spec: Spec, place: Place, watch: _Watch) -> None:
    """With the same loop as `train()`, which knows LoRA only; nothing is written but the metrics."""
    config = _config(spec, place)
    torch.set_num_threads(config.threads)
    config.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(spec.seed)
    base = load_base(config)
    rows = examples(place.base, base.model, spec.task, "train", place.train_rows)
    base.model.requires_grad_(False)
    model = Bottlenecks(add_adapter(base, config) if spec.rank else base.model, spec.width)
    frozen = FrozenBase(model)
    watch.on_model(model)
    Loop(model, config, rows, [], {}, {}).run(watch.on_step, frozen)
    frozen.check_bits()


def _merged_base(key: str, place: Place) -> Path:
    """A base directory with the adapter of a run merged in."""
    target = place.work / "merged" / place.adapter(key).name
    if not (target / "done").exists():
        shutil.rmtree(target, ignore_errors=True)
        model: Any = AutoModelForCausalLM.from_pretrained(place.base, dtype=torch.float32)
        PeftModel.from_pretrained(model, place.adapter(key)).merge_and_unload().save_pretrained(
            target
        )
        AutoTokenizer.from_pretrained(place.base).save_pretrained(target)
        (target / "done").touch()
    return target
