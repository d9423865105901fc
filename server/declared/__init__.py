"""Declared adapters: the server serves what a manifest and a watched directory name.

May import: config, files, lora_runtime, yaml_files.
"""

from .adapters import DeclaredAdapters
from .gauges import DeclaredGauges
from .state_file import StateFileError
from .types import DeclaredState, DeclaredStatus

__all__ = [
    "DeclaredAdapters",
    "DeclaredGauges",
    "DeclaredState",
    "DeclaredStatus",
    "StateFileError",
]
