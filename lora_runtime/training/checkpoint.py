"""One file that holds a run's whole state, replaced at once: a kill or a full disk leaves the last
one as it was."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..durable import replace_file
from ..errors import TrainingError

NAME = "checkpoint.pt"
_FORMAT = 1


@dataclass
class Checkpoint:
    """The state after `step` steps. Data order and learning rate are functions of the step."""

    step: int
    settings: dict[str, Any]
    """TrainConfig.settings and the hashes of base and data: a run goes on only with the same."""
    trained: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    rng: dict[str, torch.Tensor]
    history: list[dict[str, float]]
    """One line of metrics.jsonl per entry."""
    initial: dict[str, torch.Tensor] = field(default_factory=dict)
    """A and B as they started, where the start changed the base."""
    best: dict[str, Any] | None = None
    """Lowest evaluation loss, its step and weights, where the run may stop early."""
    worse: int = 0
    """Evaluations since then."""
    tokens: int = 0
    seconds: float = 0.0


def save(checkpoint: Checkpoint, directory: Path) -> None:
    """Raises OSError when it cannot be written; the one before is whole then."""
    buffer = io.BytesIO()  # torch's own writer hides why a write fails
    torch.save(vars(checkpoint) | {"format": _FORMAT}, buffer)
    replace_file(directory / NAME, buffer.getbuffer())


def load(directory: Path) -> Checkpoint | None:
    """The checkpoint, None where there is none. Raises TrainingError for a file that is no
    checkpoint."""
    path = directory / NAME
    if not path.is_file():
        return None
    try:
        fields = torch.load(path, map_location="cpu", weights_only=True)
        if fields.pop("format") != _FORMAT:
            raise ValueError("another format")
        return Checkpoint(**fields)
    except Exception as error:
        raise TrainingError(f"{path} is not a checkpoint that can be read: {error}") from error


def check_same_run(checkpoint: Checkpoint, settings: dict[str, Any]) -> None:
    """Raises TrainingError naming the first setting that differs."""
    for name in sorted(settings.keys() | checkpoint.settings.keys()):
        before, now = checkpoint.settings.get(name), settings.get(name)
        if before != now:
            raise TrainingError(
                f"the checkpoint of step {checkpoint.step} was made with {name} = {before!r}, this "
                f"run has {now!r}: start anew (overwrite) or take the former settings"
            )


def rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_rng_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
