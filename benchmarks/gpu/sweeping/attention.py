"""Attention of decode rows with their keys in longer or shorter splits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import torch

from benchmarks.gpu.compiling.targets import compiled
from benchmarks.gpu.cost import Cost, Shape, attention_cost
from benchmarks.gpu.inputs import AttentionInputs, attention_inputs
from benchmarks.gpu.machine import seconds
from lora_runtime.kernels.attention import paged_attention_reference
from lora_runtime.kernels.triton import attention, attention_tiles

from .lora import WORKING_SET

_MOST_LAYERS = 32


@contextmanager
def least_split(keys: int) -> Iterator[None]:
    """While it is entered, a split has at least this many keys: a multiple of a tile's."""
    with (
        mock.patch.object(attention_tiles, "MIN_SPLIT", keys),
        mock.patch.object(attention, "MIN_SPLIT", keys),
    ):
        yield


class AttentionSweep:
    """`rows` sequences of `context` positions, in several layers in turn."""

    def __init__(
        self, shape: Shape, rows: int, context: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.cost: Cost = attention_cost([1] * rows, [context] * rows, shape)
        layers = (
            min(_MOST_LAYERS, -(-WORKING_SET // int(self.cost.num_bytes)))
            if device.type == "cuda"
            else 1
        )
        self.given = attention_inputs(
            shape, [1] * rows, [context] * rows, layers=layers, dtype=dtype, device=device
        )

    def result(self, keys: int) -> torch.Tensor:
        """Of the last layer."""
        with least_split(keys):
            return _launch(self.given, len(self.given.caches) - 1)

    def exact(self) -> torch.Tensor:
        given, (k, v) = self.given, self.given.caches[-1]
        return paged_attention_reference(
            given.q.double(), k.double(), v.double(), given.plan, scaling=given.scaling
        )

    def seconds(self, keys: int, device: torch.device, repeats: int) -> float:
        """Of a layer."""
        layers = range(len(self.given.caches))
        with least_split(keys):
            return seconds(
                lambda: [_launch(self.given, layer) for layer in layers], device, repeats
            ) / len(layers)


def _launch(given: AttentionInputs, layer: int) -> torch.Tensor:
    return attention.paged_attention(
        given.q, *given.caches[layer], given.plan, scaling=given.scaling
    )


@dataclass(frozen=True)
class AttentionKernel:
    """What a launch compiles: two kernels, whatever the number of rows and their contexts."""

    shape: Shape
    keys: int
    dtype: torch.dtype

    @property
    def name(self) -> str:
        return f"attention: splits of {self.keys}"

    def compile(self, capability: int) -> None:
        """For a GPU that need not be there."""
        given = attention_inputs(
            self.shape,
            [1, 1],
            [2 * self.keys] * 2,
            layers=1,
            dtype=self.dtype,
            device=torch.device("cpu"),
        )

        def launch() -> None:
            _launch(given, 0)

        with least_split(self.keys):
            compiled(capability, launch)
