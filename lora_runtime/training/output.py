"""What a run leaves for the server and for people: the adapter in PEFT's format, a card and a plot."""

from __future__ import annotations

import copy
import io
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ..adapters.peft.absent import CONFIG
from ..adapters.peft.shards_index import WEIGHTS
from ..durable import replace_file
from ..errors import TrainingError
from ..version import __version__
from . import checkpoint, metrics
from .config import TrainConfig, TrainResult
from .convert import subtract_start
from .data import DataFile
from .model import ADAPTER, LoadedBase

CARD, PLOT = "README.md", "loss.png"
ALL = (WEIGHTS, CONFIG, CARD, PLOT, metrics.NAME, checkpoint.NAME)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def adapter_tensors(model: Any) -> dict[str, torch.Tensor]:
    """The adapter as it is now, by the names of PEFT's files, on the CPU."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def write_adapter(model: Any, initial: dict[str, torch.Tensor], config: TrainConfig) -> None:
    """adapter_model.safetensors and adapter_config.json; `initial`: A and B at the start, if that
    changed the base.

    The config comes last: a directory that has one is complete. Raises OSError, and TrainingError
    for weights that are not finite.
    """
    lora = copy.deepcopy(model.peft_config[ADAPTER])
    lora.inference_mode = True
    tensors = adapter_tensors(model)
    if initial:
        tensors, lora = subtract_start(tensors, initial, lora)
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise TrainingError(f"the trained tensor {name} is not finite")
    dtype = _DTYPES[config.save_dtype]
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}
    replace_file(config.out / WEIGHTS, save(tensors, {"format": "pt"}))
    replace_file(config.out / CONFIG, _config_json(lora))


def _config_json(lora: Any) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        lora.save_pretrained(scratch)
        fields = json.loads((Path(scratch) / CONFIG).read_text())
    if isinstance(fields["target_modules"], list):
        fields["target_modules"].sort()  # PEFT keeps a set: its order would change from run to run
    fields["lora_alpha"] = _whole(fields["lora_alpha"])
    # the first key that matches counts, and PEFT's own writer sorts them
    fields["rank_pattern"] = dict(lora.rank_pattern)
    fields["alpha_pattern"] = {k: _whole(v) for k, v in lora.alpha_pattern.items()}
    return (json.dumps(dict(sorted(fields.items())), indent=2) + "\n").encode()


def _whole(value: float) -> float:
    return int(value) if float(value).is_integer() else value


def write_card(
    base: LoadedBase, files: Mapping[str, DataFile], config: TrainConfig, result: TrainResult
) -> None:
    """README.md: where the adapter comes from and how it was made. Raises OSError."""
    settings = json.dumps(config.settings() | {"save_dtype": config.save_dtype}, indent=2)
    kept = "" if result.weights_step == result.steps else f", weights of step {result.weights_step}"
    lines = [
        "---",
        f"base_model: {json.dumps(base.name, ensure_ascii=False)}",
        "library_name: peft",
        "tags: [lora, loramux]",
        "---",
        "",
        f"# {config.out.resolve().name}",
        "",
        *([config.description, ""] if config.description else []),
        f"A LoRA adapter of {base.name}, made by `loramux train` {__version__}.",
        "",
        "| | |",
        "| --- | --- |",
        f"| base identity | `{base.identity}` |",
        *(
            f"| {name}: SHA-256 of `{file.path.name}` | `{file.sha256}` |"
            for name, file in files.items()
        ),
        f"| rows | {_rows(result)} |",
        f"| steps | {result.steps} ({result.stopped}{kept}) |",
        f"| loss of the last step | {result.losses[-1][1]:.4f} |",
        *(f"| {words} | {value:.4f} |" for words, value in _evaluations(result)),
        "",
        "Settings:",
        "",
        "```json",
        settings,
        "```",
        "",
    ]
    replace_file(config.out / CARD, "\n".join(lines).encode())


def _rows(result: TrainResult) -> str:
    parts = [f"{result.rows} trained on"]
    parts += [
        f"{len(lines)} {what} as too long"
        for lines, what in ((result.cut, "cut"), (result.skipped, "skipped"))
        if lines
    ]
    return ", ".join(parts)


def _evaluations(result: TrainResult) -> list[tuple[str, float]]:
    if result.eval_loss is None:
        return []
    return [
        ("evaluation loss before training", result.eval_losses[0][1]),
        ("evaluation loss", result.eval_loss),
    ]


def write_plot(result: TrainResult, target: Path) -> None:
    """loss.png: loss over steps, evaluations as dots. Raises OSError."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4))
    axis = figure.subplots()
    axis.plot(*zip(*result.losses, strict=True), color="#1b6ca8", linewidth=1, label="training")
    if result.eval_losses:
        axis.plot(
            *zip(*result.eval_losses, strict=True),
            "o-",
            color="#e08e0b",
            markersize=4,
            label="held out",
        )
    axis.set(xlabel="step", ylabel="loss per completion token", ylim=(0, None))
    axis.legend()
    axis.grid(alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    replace_file(target, picture.getvalue())
