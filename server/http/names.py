"""Names of models: an adapter's is its id, the base's are a setting's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lora_runtime import Engine


class ModelNames:
    """Names as HTTP's callers use them. `served`: the base's; without one, what the engine says."""

    def __init__(self, served: Sequence[str], engine: Callable[[], Engine]) -> None:
        self._served, self._engine = tuple(served), engine

    @property
    def given(self) -> tuple[str, ...]:
        """Names that the base was given. Raises EngineStoppedError where it is not loaded."""
        return self._served or (self._engine().base.name,)

    @property
    def of_base(self) -> tuple[str, ...]:
        """Names that mean the base: an adapter of the same id is served as what it is. Raises as
        `given`."""
        engine = self._engine()
        return tuple(name for name in self.given if not engine.has_adapter(name))

    @property
    def base(self) -> str:
        """Name of the base in answers, whichever it was asked by. Raises as `given`."""
        return next(iter(self.of_base), "")

    def adapter_of(self, model: str) -> str:
        """Adapter id that `model` means; "" for the base."""
        return "" if not model or model in self.of_base else model

    def model_of(self, adapter_id: str) -> str:
        """Name of an adapter, or of the base."""
        return adapter_id or self.base
