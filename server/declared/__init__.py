"""Declared adapters: what a manifest and a watched directory name is what the server serves."""

from .adapters import DeclaredAdapters
from .state_file import StateFileError
from .types import DeclaredState, DeclaredStatus

__all__ = ["DeclaredAdapters", "DeclaredState", "DeclaredStatus", "StateFileError"]
