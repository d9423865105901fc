"""Names of models: an adapter's is its id, the base's is a setting's."""

from __future__ import annotations

from collections.abc import Callable

from lora_runtime import Engine


class ModelNames:
    """Names as HTTP's callers use them. `served`: the base's; empty is what the engine says."""

    def __init__(self, served: str, engine: Callable[[], Engine]) -> None:
        self._served, self._engine = served, engine

    @property
    def base(self) -> str:
        """Name of the base. Raises EngineStoppedError where it is not loaded."""
        return self._served or self._engine().base.name

    def adapter_of(self, model: str) -> str:
        """Adapter id that `model` means; "" for the base."""
        return "" if model in ("", self.base) else model

    def model_of(self, adapter_id: str) -> str:
        """Name of an adapter, or of the base."""
        return adapter_id or self.base
