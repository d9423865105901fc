"""Bases in the Triton backend: with torch's references as kernels on a CPU, or with Triton's, there
interpreted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lora_runtime import BaseModel
from lora_runtime.backends.backend import ModelRunner
from lora_runtime.backends.triton import backend
from lora_runtime.backends.triton.decode_steps import DirectSteps, StepKey
from lora_runtime.backends.triton.placement import Placer
from lora_runtime.backends.triton.runner import TritonRunner
from lora_runtime.kernels import PlannedKernels
from lora_runtime.kernels.attention import paged_attention_reference
from lora_runtime.kernels.fused_update import update_group_reference
from lora_runtime.kernels.lora import add_lora_reference

from .device import DEVICE

REFERENCES = PlannedKernels(
    lora=add_lora_reference,
    attention=paged_attention_reference,
    update_group=update_group_reference,
    names={"lora": "reference", "paged_attention": "reference"},
)


@contextmanager
def chosen(kernels: str) -> Iterator[None]:
    """While it is entered, bases that ask for Triton's kernels get the references if `kernels` says
    so."""
    with pytest.MonkeyPatch.context() as patch:
        if kernels == "reference":
            patch.setattr(backend, "select", lambda *_: REFERENCES)
        yield


def load_base(
    directory: Path, kernels: str = "triton", slots: int = 0, **settings: Any
) -> BaseModel:
    """In the Triton backend; with slots, unless 0, as an engine would open them."""
    with chosen(kernels):
        model = BaseModel.load(
            directory, dtype="float32", kernels="triton", device=device_of(kernels), **settings
        )
    if slots:
        model.open_slots(slots)
    return model


def device_of(kernels: str) -> str:
    """The references read values on the host, which no graph can: they stand in on the CPU."""
    return "cpu" if kernels == "reference" else DEVICE


def free_slots(placer: Placer) -> list[int]:
    """Those that no adapter has."""
    return list(placer._free)


def record_launches(runner: ModelRunner) -> list[StepKey]:
    """Of steps in fixed buffers, from now on."""
    assert isinstance(runner, TritonRunner)
    launched: list[StepKey] = []
    launch = runner.decode.launcher.launch

    class Recording(DirectSteps):
        def launch(self, key: StepKey, step: Callable[[], None]) -> None:
            launched.append(key)
            launch(key, step)

    runner.decode.launcher = Recording()
    return launched
