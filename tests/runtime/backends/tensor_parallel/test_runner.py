"""Rank 0's runner where its own part of a step raises: the others are in the step, so none is run
again."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from lora_runtime import EngineFailedError
from lora_runtime.backends.backend import RunnerSpec
from lora_runtime.scheduling.batch import packed

pytest.importorskip(
    "transformers.distributed.parallel_utils", reason="tensor parallel needs transformers 5.20"
)
from lora_runtime.backends.tensor_parallel.runner import TensorParallelRunner

ONE = np.ones(1, np.int32)


class Group:
    """One whose ranks only listen."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.tell = self.note = self.told.append
        self.new_number, self.stepping = lambda: 0, nullcontext


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RuntimeError("injected"), "rank 0 failed in a step: RuntimeError: injected"),
        (GeneratorExit("injected"), "rank 0 failed in a step: GeneratorExit: injected"),
        (EngineFailedError("rank 1 of 2 has ended"), "rank 1 of 2 has ended"),
    ],
)
def test_a_step_that_raises_here_alone(error: BaseException, text: str) -> None:
    class Own:
        def forward(self, batch: Any) -> Any:
            raise error

    group: Any = Group()
    runner = TensorParallelRunner(Own(), group, RunnerSpec(1, 16))
    with pytest.raises(EngineFailedError, match=text):
        runner.forward(packed(ONE, ONE, ONE, ONE[None], 16))
