"""What staging asks of the device: on a stream of its own, and no more waits for it than it must."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from lora_runtime import BaseModel
from lora_runtime.adapters.peft.update import ModuleUpdate
from lora_runtime.backends import staging
from lora_runtime.model import weights as tensors
from lora_runtime.model.weights import BaseTensors

from ...support.models import VOCAB, save_base

WIDTH, INNER = 64, 96
DOWN, EMBEDDING = "model.layers.0.mlp.down_proj", "model.embed_tokens"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return BaseModel.load(
        save_base(tmp_path_factory.mktemp("base"), layers=1), dtype="float32", kernels="torch"
    )


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of what was brought to the host, while weights are looked at in pieces of ten rows."""
    found: list[tuple[int, ...]] = []
    cpu = torch.Tensor.cpu

    def to_host(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tuple(tensor.shape))
        return cpu(tensor)

    def pieces(rows: int, columns: int) -> list[tuple[int, int]]:
        return [(start, min(rows, start + 10)) for start in range(0, rows, 10)]

    for module in (tensors, staging):
        monkeypatch.setattr(module, "chunks", pieces)
    monkeypatch.setattr(torch.Tensor, "cpu", to_host)
    return found


def lora(
    out: int, width: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(3, width, generator=g).to(dtype), torch.randn(out, 3, generator=g).to(dtype)


def weight_of(base: BaseModel, name: str) -> torch.Tensor:
    return base.model.get_submodule(name).weight.detach()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_come_to_the_host_once_a_module(
    base: BaseModel, waits: list[Any], dtype: torch.dtype
) -> None:
    a, b = lora(WIDTH, INNER, dtype)
    norms = base.backend.weights.updated_norms(DOWN, a, b, 0.5)
    assert waits == [(WIDTH,)]
    torch.testing.assert_close(
        norms, (weight_of(base, DOWN).cpu() + 0.5 * b.float() @ a.float()).norm(dim=1)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_of_an_embedding_do_too(
    base: BaseModel, waits: list[Any], dtype: torch.dtype
) -> None:
    a, b = lora(WIDTH, VOCAB, dtype)
    magnitude = torch.rand(WIDTH) + 0.5
    waits.clear()
    deltas = staging.Stager(base.backend.weights, 0).stage(
        {EMBEDDING: ModuleUpdate(a, b, scaling=0.5, magnitude=magnitude)}
    )
    assert waits == [(WIDTH,)]
    norms = (weight_of(base, EMBEDDING).cpu() + 0.5 * a.float().t() @ b.float().t()).norm(dim=0)
    assert deltas[EMBEDDING].gain is not None
    torch.testing.assert_close(deltas[EMBEDDING].gain, magnitude / norms - 1)


def test_a_saved_weight_is_compared_on_the_device(base: BaseModel, waits: list[Any]) -> None:
    weight = weight_of(base, DOWN).clone()
    assert base.backend.weights.holds(DOWN, weight)
    weight[-1, -1] += 1
    assert not base.backend.weights.holds(DOWN, weight)
    assert waits == []


def test_staging_runs_on_a_stream_of_its_own(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: list[bool] = []
    norms = BaseTensors.updated_norms

    class Streams:
        entered = False

        @contextmanager
        def own(self) -> Iterator[None]:
            self.entered = True
            yield
            self.entered = False

    streams = Streams()
    monkeypatch.setattr(base.backend, "_streams", streams)

    def noted(*args: Any) -> torch.Tensor:
        inside.append(streams.entered)
        return norms(*args)

    monkeypatch.setattr(BaseTensors, "updated_norms", noted)
    a, b = lora(WIDTH, INNER)
    base.stage_adapter({DOWN: ModuleUpdate(a, b, magnitude=torch.ones(WIDTH))})
    assert inside == [True]
    assert not streams.entered
