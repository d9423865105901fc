"""Names of models: an adapter's is its id, the base's are a setting's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lora_runtime import Engine


class ModelNames:
    """Names as HTTP's callers use them. `served`: the base's; without one, what the engine says."""

    def __init__(self, served: Sequence[str], engine: Callable[[], Engine]) -> None:
        self._served, self._engine = tuple(served), engine

    @property
    def of_base(self) -> tuple[str, ...]:
        """Names of the base. Raises EngineStoppedError where it is not loaded."""
        return self._served or (self._engine().base.name,)

    @property
    def base(self) -> str:
        """Name of the base in answers, whichever it was asked by. Raises as `of_base`."""
        return self.of_base[0]

    def adapter_of(self, model: str) -> str:
        """Adapter id that `model` means; "" for the base."""
        return "" if not model or model in self.of_base else model

    def model_of(self, adapter_id: str) -> str:
        """Name of an adapter, or of the base."""
        return adapter_id or self.base
