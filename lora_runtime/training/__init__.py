"""Training from a JSONL file to a LoRA adapter in PEFT's format. Needs the extra `loramux[train]`.

May import: adapters.peft, durable, errors, kernels, model, modules, version.
"""

from ..errors import DivergedError, TrainingError
from .config import StepReport, TrainConfig, TrainResult
from .data import Row
from .run import train

__all__ = [
    "DivergedError",
    "Row",
    "StepReport",
    "TrainConfig",
    "TrainResult",
    "TrainingError",
    "train",
]
